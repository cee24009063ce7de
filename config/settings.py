"""Every setting of a run as nested dataclasses, and access to them by their dotted names."""

import functools
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Annotated, Any

import tyro
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from algorithms import AlgorithmConfig
from errors import InputError
from priors.evaluation import EvalConfig
from priors.prior import PriorConfig
from recording.recorder import LogConfig
from representations import RepresentationConfig
from schedules.schedule import ScheduleConfig

Seed = Annotated[NonNegativeInt, Field(lt=2**32)]  # Larger ones repeat.


@dataclass
class Config:
    prompt: Annotated[tuple[str, ...], Field(min_length=1)] = ("a red apple",)
    """What to make. Several prompts make several rows."""
    negative_prompt: tuple[str, ...] = ("",)
    """y⁻, what guidance leads away from: one for all prompts, one a prompt, or one a particle."""
    particles: PositiveInt | None = None
    """Pictures for each prompt. None: 4, but 1 for edits."""
    batch: PositiveInt | None = None
    """How many of each prompt's particles a step takes, drawn at random. None: all."""
    source_image: tuple[str, ...] = ()
    """The picture that dds, pds and sdedit edit: an image file for all prompts, one a prompt, or one a particle."""
    source_prompt: tuple[str, ...] = ()
    """What that picture shows, likewise."""
    source_mask: tuple[str, ...] = ()
    """Where the edit may change it, the white of an image file, likewise. None: everywhere."""
    source_negative_prompt: tuple[str, ...] = ()
    """y⁻ of the source. None: that of the prompt."""
    steps: Annotated[PositiveInt, Field(le=10**7)] | None = None
    """Optimiser steps. None: 1000, unless the method or the checkpoint has a default of its own."""
    seed: Seed = 0
    """Row i of the batch draws its random numbers from seed + i."""
    seeds: tuple[Seed, ...] = ()
    """The seeds of a prompt's particles, in place of --seed."""
    paper: bool = False
    """The method and its schedule as its paper has them, not as they were searched for the checkpoint. Steps, start
    and learning rate stay the checkpoint's."""
    quiet: bool = False
    """No progress on the screen; errors, warnings and the name of the result remain."""
    out: str | None = None
    """Folder of the run, which must not exist. None: outputs/<time>-<algo>-<rep>-<prompt>."""
    algo: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    rep: RepresentationConfig = field(default_factory=RepresentationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    # What the user typed, and what an earlier run of this Config ran with (recording/environment.py).
    command: tyro.conf.Suppress[tuple[str, ...]] = ()
    environment: tyro.conf.Suppress[dict] = field(default_factory=dict)


@dataclass
class CommandLine(Config):
    config: str | None = None
    """A YAML file of settings, such as the config.yaml of a run, or a few lines of it. Flags replace its values."""
    resume: str | None = None
    """Folder of a run, to continue from its last checkpoint. Only --steps, --prior.device and --log.* may be given
    too."""
    prompts_file: str | None = None
    """A text file of prompts, one a line, in place of --prompt."""
    list: bool = False
    """Name the methods, representations, schedules and families of priors."""
    debug: bool = False
    """Show the traceback of an error."""


adapter = functools.cache(TypeAdapter)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of nested dataclasses: {"algo.guidance_scale": 7.5, …}."""
    flat = {}
    for entry in fields(config):
        value, name = getattr(config, entry.name), prefix + entry.name
        flat |= flatten(value, f"{name}.") if is_dataclass(value) else {name: value}
    return flat


def set_values(config: Any, values: dict[str, Any], source: Any) -> Any:
    """Sets {dotted name: value}, in place. source: where they are from, for errors."""
    known = flatten(config)
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{source}: there is no setting {name}")
        if isinstance(known[name], tuple) and not isinstance(value, list | tuple):
            value = (value,)  # as in `prompt: a fox`
        *path, last = name.split(".")
        setattr(functools.reduce(getattr, path, config), last, value)
    check_values(config, f"{source}: ")
    return config


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def settings_in(arguments: Iterable[str]) -> list[str]:
    """The settings that a command line gives: schedule.shared_t of --schedule.no-shared-t, too."""
    names = [word.removeprefix("--").split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")]
    return [re.sub(r"(^|\.)no_", r"\1", name) for name in names]


def validated(cls: type, config: Any, source: str = "") -> Any:
    """A dataclass with its values converted to the types of the dataclass cls. Raises InputError, which begins with
    the source, for one that is wrong."""
    try:
        return adapter(cls).validate_python(asdict(config))
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(part for part in fault["loc"] if isinstance(part, str) and part.isidentifier())
        raise InputError(f"{source}{flag(name)} {str(fault['input'])[:100]}: {fault['msg']}") from error


def check_values(config: Config, source: str = "") -> None:
    """Every setting by itself: its type and its limits. Raises InputError; what stands for another type is
    converted."""
    vars(config).update(vars(validated(Config, config, source)))
    for name, value in flatten(config).items():
        if "\\udc" in ascii(value):  # Bytes of the command line that are not UTF-8 arrive as surrogates.
            raise InputError(f"{source}{flag(name)} {ascii(value)} is not UTF-8")
