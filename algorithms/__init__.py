"""The published methods, one file each. To add one, add a file and a line in ALGORITHMS."""

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Literal

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
from algorithms.nfsd import NFSD
from algorithms.pds import PDS
from algorithms.repulsion import REPULSION
from algorithms.rfds import RFDS
from algorithms.sdedit import SDEdit
from algorithms.sdi import SDI
from algorithms.sds import SDS
from algorithms.vsd import VSD
from priors.settings import Finite, Fraction, Negative, NonNegative, when

ALGORITHMS = {
    "asd": ASD,
    "bridge": Bridge,
    "cfd": CFD,
    "csd": CSD,
    "ddim": DDIM,
    "dds": DDS,
    "dsd": DSD,
    "flowedit": FlowEdit,
    "ism": ISM,
    "lods": LODS,
    "nfsd": NFSD,
    "pds": PDS,
    "rfds": RFDS,
    "sdedit": SDEdit,
    "sdi": SDI,
    "sds": SDS,
    "vsd": VSD,
}
EDITS = [name for name, cls in ALGORITHMS.items() if cls.edits]
SAMPLERS = [name for name, cls in ALGORITHMS.items() if cls.is_sampler]
DISTILLING = [name for name in ALGORITHMS if name not in SAMPLERS]
DISTILLING_EDITS = [name for name in EDITS if name in DISTILLING]
WITH_SCALE = [name for name, cls in ALGORITHMS.items() if "algo.guidance_scale" in cls.defaults]
GUIDED = [name for name in WITH_SCALE if ALGORITHMS[name].is_guided]


@dataclass
class Common:
    name: Literal[tuple(ALGORITHMS)] = "sds"
    """The method."""
    guidance_scale: Annotated[Finite | None, when(name=WITH_SCALE)] = None
    """Classifier-free guidance s in ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻)); 1 is the conditional prediction. None: the
    method's default."""
    source_guidance_scale: Annotated[Finite | None, when(name=DISTILLING_EDITS)] = None
    """s for the source of an edit. None: guidance_scale."""
    guidance_rescale: Annotated[Fraction, when(name=GUIDED)] = 0.0
    """φ, how far the guided prediction is rescaled to the standard deviation of the conditional one; 0: off.
    Lin et al. 2023: 0.7."""
    perp_neg_prompts: Annotated[tuple[str, ...], when(name=GUIDED)] = ()
    """Negative prompts of which only the part perpendicular to the prompt counts. Armandpour et al. 2023, Perp-Neg."""
    perp_neg_weights: Annotated[tuple[Negative, ...], when(name=GUIDED)] = ()
    """A weight below 0 for each of them."""
    updates_per_step: Annotated[PositiveInt, when(name=DISTILLING)] = 1
    """Updates of the picture at each step, with the same timestep and random numbers. The method's state (ε*, κ, φ, ∅*)
    changes at each update."""
    repulsion: Annotated[Literal["none", *REPULSION], when(name=DISTILLING)] = "none"
    """Force that keeps the particles of a prompt apart: Stein variational gradient descent, or repulsive score
    distillation. A particle's path then depends on the others."""
    repulsion_scale: Annotated[NonNegative, when(repulsion=list(REPULSION))] = 1.0
    """Factor on the repulsive force."""


# --algo.<name>.<field> for every method that has settings of its own.
AlgorithmConfig = make_dataclass(
    "AlgorithmConfig",
    [
        (name, Annotated[cls.Settings, when(name=name)], field(default_factory=cls.Settings))
        for name, cls in ALGORITHMS.items()
        if cls.Settings
    ],
    bases=(Common,),
)
AlgorithmConfig.__module__ = __name__  # so that it can be pickled, for other processes
