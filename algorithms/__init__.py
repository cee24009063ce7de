"""The published methods, one file each. A new one is a new file and a line in ALGORITHMS."""

from dataclasses import dataclass
from typing import Literal

from algorithms.sds import SDS

ALGORITHMS = {"sds": SDS}


@dataclass
class AlgorithmConfig:
    name: Literal[tuple(ALGORITHMS)] = "sds"
    """The method."""
    guidance_scale: float | None = None
    """Classifier-free guidance s in ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻)); 1 is the conditional prediction. None: the method's own."""
