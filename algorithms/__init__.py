"""The published methods, one file each. To add one, add a file and import its class here; --algo.name is the class's
name in lower case."""

from dataclasses import dataclass, field, make_dataclass
from typing import Literal

from pydantic import PositiveInt

from algorithms.asd import ASD
from algorithms.bridge import Bridge
from algorithms.cfd import CFD
from algorithms.csd import CSD
from algorithms.ddim import DDIM
from algorithms.dds import DDS
from algorithms.dsd import DSD
from algorithms.flowedit import FlowEdit
from algorithms.ism import ISM
from algorithms.lods import LODS
from algorithms.method import Method
from algorithms.nfsd import NFSD
from algorithms.pds import PDS
from algorithms.repulsion import REPULSION
from algorithms.rfds import RFDS
from algorithms.sdedit import SDEdit
from algorithms.sdi import SDI
from algorithms.sds import SDS
from algorithms.vsd import VSD
from priors.settings import Finite, Fraction, Negative, NonNegative

METHODS = [value for value in tuple(vars().values()) if isinstance(value, type) and issubclass(value, Method)]
ALGORITHMS = {cls.__name__.lower(): cls for cls in METHODS if cls is not Method}


@dataclass
class Common:
    name: Literal[tuple(ALGORITHMS)] = "sds"
    """The method."""
    guidance_scale: Finite | None = None
    """Classifier-free guidance s in ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻)); 1 is the conditional prediction. None: the
    method's default."""
    source_guidance_scale: Finite | None = None
    """s for the source of an edit. None: guidance_scale."""
    guidance_rescale: Fraction = 0.0
    """φ, how far the guided prediction is rescaled to the standard deviation of the conditional one; 0: off.
    Lin et al. 2023: 0.7."""
    perp_neg_prompts: tuple[str, ...] = ()
    """Negative prompts of which only the part perpendicular to the prompt counts. Armandpour et al. 2023, Perp-Neg."""
    perp_neg_weights: tuple[Negative, ...] = ()
    """A weight below 0 for each of them."""
    updates_per_step: PositiveInt = 1
    """Updates of the picture at each step, with the same timestep and random numbers. The method's state (ε*, κ, φ, ∅*)
    changes at each update."""
    repulsion: Literal["none", *REPULSION] = "none"
    """Force that keeps the particles of a prompt apart: Stein variational gradient descent, or repulsive score
    distillation. A particle's path then depends on the others."""
    repulsion_scale: NonNegative = 1.0
    """Factor on the repulsive force."""


# --algo.<name>.<field> for every method that has settings of its own.
AlgorithmConfig = make_dataclass(
    "AlgorithmConfig",
    [(name, cls.Settings, field(default_factory=cls.Settings)) for name, cls in ALGORITHMS.items() if cls.Settings],
    bases=(Common,),
)
AlgorithmConfig.__module__ = __name__  # so that it can be pickled, for other processes
