"""The published methods, one file each. A new one is a new file and a line in ALGORITHMS."""

from dataclasses import dataclass, field, make_dataclass
from typing import Literal

from algorithms.bridge import Bridge
from algorithms.csd import CSD
from algorithms.ddim import DDIM
from algorithms.dds import DDS
from algorithms.ism import ISM
from algorithms.nfsd import NFSD
from algorithms.pds import PDS
from algorithms.sdedit import SDEdit
from algorithms.sdi import SDI
from algorithms.sds import SDS
from algorithms.vsd import VSD
from errors import Finite

ALGORITHMS = {"sds": SDS, "vsd": VSD, "ism": ISM, "csd": CSD, "nfsd": NFSD, "sdi": SDI, "bridge": Bridge}
ALGORITHMS |= {"dds": DDS, "pds": PDS}  # edits
ALGORITHMS |= {"ddim": DDIM, "sdedit": SDEdit}  # samplers, for comparison


@dataclass
class Common:
    name: Literal[tuple(ALGORITHMS)] = "sds"
    """The method."""
    guidance_scale: Finite | None = None
    """Classifier-free guidance s in ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻)); 1 is the conditional prediction. None: the
    method's own."""


# --algo.<name>.<field> for every method that has settings of its own.
AlgorithmConfig = make_dataclass(
    "AlgorithmConfig",
    [(name, cls.Settings, field(default_factory=cls.Settings)) for name, cls in ALGORITHMS.items() if cls.Settings],
    bases=(Common,),
)
