"""All settings of a run as nested dataclasses, and access to them by dotted name."""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import tyro
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from algorithms import AlgorithmConfig
from errors import InputError, require
from priors.checkpoint import PriorConfig
from recording.recorder import LogConfig
from recording.scores import EvalConfig
from representations import RepresentationConfig
from schedules.schedule import ScheduleConfig

Seed = Annotated[NonNegativeInt, Field(lt=2**32)]  # Larger seeds would repeat.


@dataclass
class Config:
    prompt: Annotated[tuple[str, ...], Field(min_length=1)] = ("a red apple",)
    """What to make; one row of pictures per prompt."""
    negative_prompt: tuple[str, ...] = ("",)
    """y⁻, what guidance steers away from: one for all prompts, one per prompt, or one per particle."""
    particles: PositiveInt | None = None
    """Pictures per prompt. None: 4, or 1 for edits."""
    batch: PositiveInt | None = None
    """How many particles of each prompt a step updates, drawn at random. None: all."""
    source_image: tuple[str, ...] = ()
    """Image file that dds, pds, flowedit or sdedit edits: one for all prompts, one per prompt, or one per particle."""
    source_prompt: tuple[str, ...] = ()
    """What the source image shows, likewise."""
    source_mask: tuple[str, ...] = ()
    """Image file that is white where the edit may change the source, likewise. By default, everywhere."""
    source_negative_prompt: tuple[str, ...] = ()
    """y⁻ of the source. By default, that of the prompt."""
    steps: Annotated[PositiveInt, Field(le=10**7)] | None = None
    """Optimiser steps. None: the checkpoint's or the method's default, or 1000."""
    seed: Seed = 0
    """Row i of the batch draws its random numbers with seed + i."""
    seeds: tuple[Seed, ...] = ()
    """The seeds of each prompt's particles, instead of --seed."""
    paper: bool = False
    """Use the paper's settings for the method and its schedule, not those searched for the checkpoint. Steps, start and
    learning rate remain the checkpoint's."""
    quiet: bool = False
    """Print only errors, warnings and the path of the result."""
    out: str | None = None
    """Folder for the run; must not exist yet. None: outputs/<time>-<algo>-<rep>-<prompt>."""
    algo: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    rep: RepresentationConfig = field(default_factory=RepresentationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    # The command line.
    command: tyro.conf.Suppress[tuple[str, ...]] = ()


@dataclass
class CommandLine(Config):
    config: str | None = None
    """A YAML file of settings, such as the config.yaml of a run, or a few lines of it. Flags override its values."""
    resume: str | None = None
    """Folder of a run to continue from its last checkpoint. Only --steps, --prior.device and --log.* may be added."""
    prompts_file: str | None = None
    """A text file of prompts, one per line, instead of --prompt."""
    list: bool = False
    """List the methods, representations, schedules and families of priors."""
    debug: bool = False
    """Show the traceback of an error."""


adapter = functools.cache(TypeAdapter)


def flatten(config: Any) -> dict[str, Any]:
    """All settings of nested dataclasses, flattened: {"algo.guidance_scale": 7.5, …}."""
    return dict(nested_items(asdict(config)))


def nested_items(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names and values in nested mappings."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from nested_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def set_values(config: Any, values: dict[str, Any], source: Any) -> Any:
    """Sets {dotted name: value}, in place. source: where they come from, for error messages."""
    known = flatten(config)
    for name, value in values.items():
        require(name in known, f"{source}: unknown setting {name}")
        if isinstance(known[name], tuple) and not isinstance(value, list | tuple):
            value = (value,)  # as in `prompt: a fox`
        *path, last = name.split(".")
        setattr(functools.reduce(getattr, path, config), last, value)
    check_values(config, f"{source}: ")
    return config


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def settings_in(arguments: Iterable[str]) -> list[str]:
    """The settings that a command line gives; --schedule.no-shared-t also counts as schedule.shared_t."""
    names = [word.removeprefix("--").split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")]
    return [re.sub(r"(^|\.)no_", r"\1", name) for name in names]


def validated(cls: type, config: Any, source: str = "") -> Any:
    """A config as the dataclass cls, its values converted to the types of cls. Raises InputError for an invalid value;
    the message begins with the source."""
    try:
        return adapter(cls).validate_python(asdict(config))
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(part for part in fault["loc"] if isinstance(part, str) and part.isidentifier())
        raise InputError(f"{source}{flag(name)} {str(fault['input'])[:100]}: {fault['msg']}") from error


def check_values(config: Config, source: str = "") -> None:
    """Checks the type and limits of each setting by itself, and converts values where possible. Raises
    InputError."""
    vars(config).update(vars(validated(Config, config, source)))
    for name, value in flatten(config).items():
        # Bytes on the command line that are not UTF-8 arrive as surrogates.
        require("\\udc" not in ascii(value), f"{source}{flag(name)} {ascii(value)} is not valid UTF-8")
