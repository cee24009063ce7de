"""Every setting of a run."""

from dataclasses import dataclass, field, fields

# They are parsed before torch and its libraries load: --help and wrong flags answer at once. For this every file below
# imports torch inside the functions that need it.
from algorithms import AlgorithmConfig
from priors.evaluation import EvalConfig
from priors.prior import PriorConfig
from recording import LogConfig
from representations import RepresentationConfig
from schedules import ScheduleConfig


@dataclass
class Config:
    prompt: tuple[str, ...] = ("a red apple",)
    """What to make. Several prompts make several rows."""
    negative_prompt: str = ""
    """y⁻, what guidance leads away from."""
    particles: int | None = None
    """Pictures for each prompt. None: 4, but 1 for edits."""
    source_image: tuple[str, ...] = ()
    """What dds, pds and sdedit edit: an image file for all prompts, one a prompt, or one a particle."""
    source_prompt: tuple[str, ...] = ()
    """What is seen in it, likewise."""
    steps: int | None = None
    """Optimiser steps. None: 1000, unless the method or the checkpoint knows better."""
    seed: int = 0
    """Row i of the batch draws its random numbers from seed + i."""
    out: str | None = None
    """Folder of the run, which must not exist. None: outputs/<time>-<algo>-<rep>-<prompt>."""
    algo: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    rep: RepresentationConfig = field(default_factory=RepresentationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


@dataclass
class CommandLine(Config):
    """What sds2d.py takes beside them."""

    config: str | None = None
    """config.yaml of a run, to be repeated in a folder of its own. Flags beside it count as if they stood behind that run's."""
    resume: str | None = None
    """Folder of a run, to go on from its last checkpoint. --steps may grow; no other flag may contradict it."""
    debug: bool = False
    """Show where an error arose."""

    def settings(self):
        return Config(**{entry.name: getattr(self, entry.name) for entry in fields(Config)})
