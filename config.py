"""Every setting of a run: nested dataclasses, their defaults, files and flags, and what does not go together.

    parse(arguments)         a command line of sds2d.py  }
    parse_resume(arguments)  `--resume DIR`              }  → a Config with every setting filled in, and checked
    complete(config)         a Config made in Python     }

The help of a setting stands under it, its limits are in its type, and what it depends on is beside it: when(…). All
errors are InputError; tyro itself reports what it cannot parse, and exits with code 2.
"""

import functools
import importlib.util
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import tyro
import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from algorithms import ALGORITHMS, DISTILLING, DISTILLING_EDITS, EDITS, SAMPLERS, AlgorithmConfig
from algorithms.repulsion import REPULSION
from errors import InputError, first_line, require
from priors.checkpoint import PriorConfig
from priors.files import EMBEDDED, checkpoint_file, locate, user_path
from priors.settings import settings_of, when
from recording.recorder import LogConfig
from recording.scores import EvalConfig
from representations import REPRESENTATIONS, RepresentationConfig
from representations.start import open_image
from schedules.curves import validate_points
from schedules.schedule import ScheduleConfig

Seed = Annotated[NonNegativeInt, Field(lt=2**32)]  # Larger seeds would repeat.
Files = tuple[str, ...]


@dataclass
class Config:
    prompt: Annotated[tuple[str, ...], Field(min_length=1)] = ("a red apple",)
    """What to make; one row of pictures per prompt."""
    negative_prompt: Annotated[tuple[str, ...], Field(min_length=1)] = ("",)
    """y⁻, what guidance steers away from: one for all prompts, one per prompt, or one per particle."""
    particles: PositiveInt | None = None
    """Pictures per prompt. None: 4, or 1 for edits."""
    batch: Annotated[PositiveInt | None, when({"algo.name": DISTILLING})] = None
    """How many particles of each prompt a step updates, drawn at random. None: all."""
    source_image: Annotated[Files, when({"algo.name": EDITS}, needed=True)] = ()
    """Image file that dds, pds, flowedit or sdedit edits: one for all prompts, one per prompt, or one per particle."""
    source_prompt: Annotated[tuple[str, ...], when({"algo.name": EDITS}, needed=True)] = ()
    """What the source image shows, likewise."""
    source_mask: Annotated[Files, when({"algo.name": DISTILLING_EDITS})] = ()
    """Image file that is white where the edit may change the source, likewise. By default, everywhere."""
    source_negative_prompt: Annotated[tuple[str, ...], when({"algo.name": DISTILLING_EDITS})] = ()
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
    # No flags: the command line; the file of --config; whether every setting has been filled in.
    command: tyro.conf.Suppress[tuple[str, ...]] = ()
    config_file: tyro.conf.Suppress[str | None] = field(default=None, compare=False)
    filled: tyro.conf.Suppress[bool] = False


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


SETTINGS = settings_of(Config)  # {"algo.guidance_scale": (its type, its conditions), …}
UNRECORDED = {"out", "config_file", "filled"}  # not in config.yaml; a run's folder may be moved
# The settings on which the defaults of others depend: those named in conditions, and these.
CHOOSING = {"prior.path", "paper", "seeds", "rep.init_std", "rep.init_color", "rep.init_images"}
CHOOSING.update(*(condition.choices for setting in SETTINGS.values() for condition in setting.conditions))
TYPES = {name: SETTINGS[name].type for name in CHOOSING} | {"config": str | None, "resume": str | None}
Choices = TypedDict("Choices", TYPES, total=False)  # of which tyro makes a dictionary of only the flags that are given

# --------------------------------------------------------------------------------------------------------------------
# Settings by their dotted names


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def settings_in(arguments: Iterable[str]) -> list[str]:
    """The settings that a command line names; --schedule.no-shared-t also counts as schedule.shared_t."""
    names = [word.removeprefix("--").split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")]
    return [re.sub(r"(^|\.)no_", r"\1", name) for name in names]


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


def set_values(config: Any, values: dict[str, Any], source: Any = None) -> Any:
    """A new config with these values, {dotted name: value}, each checked by itself and converted where possible.
    source: where they come from, for error messages."""
    content, known, place = asdict(config), flatten(config), f"{source}: " if source else ""
    for name, value in values.items():
        require(name in known, f"{place}unknown setting {name}")
        if isinstance(known[name], tuple) and not isinstance(value, list | tuple):
            value = (value,)  # as in `prompt: a fox`
        *path, last = name.split(".")
        functools.reduce(dict.__getitem__, path, content)[last] = value
    return validated(type(config), content, place)


adapter = functools.cache(TypeAdapter)


def validated(cls: type, content: dict, place: str = "") -> Any:
    """Nested values → a dataclass. place: the start of error messages."""
    try:
        config = adapter(cls).validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(part for part in fault["loc"] if isinstance(part, str) and part.isidentifier())
        raise InputError(f"{place}{flag(name)} {str(fault['input'])[:100]}: {fault['msg']}") from error
    for name, value in flatten(config).items():
        # Bytes on the command line that are not UTF-8 arrive as surrogates.
        require("\\udc" not in ascii(value), f"{place}{flag(name)} {ascii(value)} is not valid UTF-8")
    return config


# --------------------------------------------------------------------------------------------------------------------
# Files


class UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings have no key twice."""

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError("a key is given twice")
        return mapping


def load(file: str | Path) -> dict[str, Any]:
    """A YAML file of settings, from a run or a user → {dotted name: value}. Raises InputError for anything else."""
    try:
        require(user_path(file).is_file(), "no such file")  # A named pipe would block.
        content = yaml.load(user_path(file).read_text(encoding="utf-8"), UniqueKeys)
        require(isinstance(content, dict), "it has no settings, such as `steps: 100`")
        pairs = list(nested_items(content))
    except Exception as error:  # PyYAML's constructors can raise anything.
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{file} cannot be read as settings ({reason})") from error
    values = dict(pairs)
    for name in values:  # as `algo: {name: vsd}` and as `algo.name: vsd`
        require([key for key, _ in pairs].count(name) == 1, f"{file}: {name} is given twice")
    return {name: value for name, value in values.items() if name not in UNRECORDED}


def dump(config: Config) -> str:
    """A Config as YAML, for config.yaml."""
    settings = adapter(Config).dump_python(config, mode="json", exclude=UNRECORDED)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def read_prompts(file: str) -> tuple[str, ...]:
    """The non-empty lines of a text file."""
    try:
        lines = user_path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--prompts-file {file} cannot be read ({first_line(error)})") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    require(prompts, f"--prompts-file {file} has no prompts; it needs one per line")
    return prompts


# --------------------------------------------------------------------------------------------------------------------
# Defaults


def defaults(config: Config) -> tuple[dict[str, Any], str]:
    """{dotted name: value} for the method, representation and checkpoint of a config, and where these come from."""
    name, kind, rep = config.algo.name, config.rep.kind, config.rep
    algorithm, representation = ALGORITHMS[name], REPRESENTATIONS[kind]
    checkpoint = locate(config.prior.path)
    file = checkpoint_file(checkpoint, "sds2d.json")
    method = next((key for key in (name, algorithm.like) if key in file), name)
    row = next((f"{key} {kind}" for key in (name, method) if f"{key} {kind}" in file), f"{name} {kind}")
    lines = {key: file.get(key, {}) for key in (kind, method, row)}
    for key, line in lines.items():
        require(isinstance(line, dict), f"{checkpoint}/sds2d.json: {key} must be an object of settings")
        for setting in line:
            allowed = setting.split(".")[0] in ("algo", "rep", "schedule", "steps", "particles")
            require(allowed, f"{checkpoint}/sds2d.json: a checkpoint cannot set a default for {setting}")
            require(setting in SETTINGS, f"{checkpoint}/sds2d.json: unknown setting {setting}")
    searched = lines[method] | lines[row]
    if config.paper:
        searched = {key: value for key, value in searched.items() if key.startswith(("rep.", "steps"))}
    values = {"steps": 1000, "particles": 4, "schedule.timestep": "uniform", "schedule.weight": "constant"}
    values |= {"schedule.t_min": 0.02, "rep.init": "noise", "rep.init_std": 1.0}
    values |= {"rep.init_color": (0.5, 0.5, 0.5), "rep.optimizer": "adam"}
    edit = {"rep.init": "source", "particles": 1} if algorithm.edits else {}
    values |= lines[kind] | edit | algorithm.defaults | searched | algorithm.required
    # Some settings imply others, and a default learning rate is for one optimizer only.
    if config.seeds:
        values["particles"] = len(config.seeds)
    if rep.init_images:
        values["rep.init"] = "image"
    elif rep.init_color:
        values["rep.init"] = "constant"
    elif rep.init_std is not None:
        values["rep.init"] = "noise"
    optimizer = rep.optimizer or values["rep.optimizer"]
    if optimizer != values["rep.optimizer"] or "rep.lr" not in values:
        values["rep.lr"] = representation.learning_rates[optimizer]
    source = f"{config.prior.path}/sds2d.json, {method}" if method in file else f"built into {name}"
    return values, f"{source}; the paper's for the method" if config.paper else source


def with_defaults(known: dict[str, Any]) -> Config:
    """A Config of these settings, {dotted name: value}, and of the defaults that they leave open. None: not known."""
    known = {name: value for name, value in known.items() if value is not None}
    config = set_values(Config(), known)
    values, source = defaults(config)
    values = {name: value for name, value in values.items() if name not in known}
    flat = flatten(config) | values
    return set_values(config, {name: value for name, value in values.items() if not unused(name, flat)}, source)


def derive(config: Config) -> Config:
    """Fills in what follows from other settings, and makes paths absolute: config.yaml must mean the same from any
    directory."""
    recordings = min(max(3, config.steps // 40), 10)
    values = {"filled": True, "log.every": config.log.every or math.ceil(config.steps / recordings)}
    values["source_image"] = tuple(map(absolute, config.source_image))
    values["source_mask"] = tuple(map(absolute, config.source_mask))
    values["rep.init_images"] = tuple(map(absolute, config.rep.init_images))
    checkpoint = locate(config.prior.path)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(EMBEDDED.parent.parent):
        values["prior.path"] = str(checkpoint)
    if config.eval.clip and user_path(config.eval.clip).is_dir():
        values["eval.clip"] = absolute(config.eval.clip)
    if config.out is not None:
        values["out"] = str(user_path(config.out))
    return set_values(config, values)


def absolute(path: str) -> str:
    return str(user_path(path).absolute())


def complete(config: Config) -> Config:
    """A new Config with every setting filled in, and checked; from parse() they come so.

    What equals Config()'s own value counts as not set, and gets the default of method, checkpoint and representation.
    """
    config = set_values(config, {})
    if not config.filled:
        initial = flatten(Config())
        config = with_defaults({name: value for name, value in flatten(config).items() if value != initial[name]})
    return check(derive(config))


# --------------------------------------------------------------------------------------------------------------------
# Flags


def read_options(cls: type, arguments: list[str], description: str | None = None) -> tuple[Any, list[str]]:
    """The flags of another program → (an instance of its dataclass cls, the remaining arguments)."""
    options, rest = tyro.cli(cls, args=arguments, description=description, return_unknown_args=True)
    return validated(cls, asdict(options)), rest


def choices_in(arguments: list[str]) -> Choices:
    """The flags among these on which defaults depend."""
    return tyro.cli(Choices, args=arguments, return_unknown_args=True)[0]


def read_flags(arguments: list[str], default: Config, description: str | None = None) -> CommandLine:
    """All flags, over a default; --help-all shows it."""
    words = ["--help" if word == "--help-all" else word for word in arguments]
    options = tyro.cli(CommandLine, args=words, description=description, default=CommandLine(**vars(default)))
    named = settings_in(arguments)
    for name, value in flatten(options).items():
        twice = isinstance(value, tuple) and named.count(name) > 1
        require(not twice, f"{flag(name)} is given twice; give it once, followed by all of its values")
    return options


def parse(arguments: list[str], description: str | None = None) -> Config:
    """The flags of a new run → its Config. Flags take precedence over values from --config, and those over the defaults
    of the checkpoint and the method."""
    choices = choices_in(arguments)
    require("resume" not in choices, f"--resume {choices.get('resume')} works only with sds2d.py")
    file = choices.get("config")
    known = read_config(file, choices) if file else {}
    default = with_defaults(known | {name: value for name, value in choices.items() if name in SETTINGS})
    options = read_flags(arguments, default, description)
    if options.prompts_file:
        require("prompt" not in settings_in(arguments), "--prompts-file replaces --prompt; give only one of them")
        options.prompt = read_prompts(options.prompts_file)
    options.command, options.config_file = without_out(arguments), file
    flat = flatten(options)
    return check(derive(with_defaults({name: flat[name] for name in SETTINGS})))


def read_config(file: str, choices: Choices) -> dict[str, Any]:
    """The settings of --config. If the flags choose another method, representation or prior than the run whose
    config.yaml it is, only what that run's command gave: the rest were defaults."""
    stored = load(file)
    run = flatten(set_values(Config(), stored, file))
    kept = set(stored)
    if run["command"] and any(
        choices.get(name, run[name]) != run[name] for name in ("algo.name", "rep.kind", "prior.path")
    ):
        kept &= set(settings_in(run["command"]))
    return {name: run[name] for name in kept}


def parse_resume(arguments: list[str]) -> Config:
    """`--resume DIR` and the flags allowed with it → the Config of the run in DIR."""
    resume = choices_in(arguments).get("resume")
    require(resume, "--resume needs a run folder")
    folder = user_path(resume)
    stored = load(folder / "config.yaml")
    run = set_values(Config(), stored, folder / "config.yaml")
    before = flatten(run)
    for name, value in flatten(derive(with_defaults(stored))).items():
        there = name in UNRECORDED or name in stored and (value is None or before[name] is not None)
        require(there, f"{folder / 'config.yaml'}: the setting {name} is missing")
    options = read_flags(arguments, run)
    for name, value in flatten(options).items():
        allowed = name.startswith(("steps", "prior.device", "log.", "quiet", "debug", "resume"))
        message = f"{flag(name)}: --resume accepts only --steps, --prior.device, --log.*, --quiet and --debug"
        require(allowed or value == flatten(CommandLine(**vars(run)))[name], message)
    fixed = ALGORITHMS[run.algo.name].is_sampler
    if options.steps != run.steps and (fixed or options.steps < run.steps):
        more = "" if fixed else " or more"
        raise InputError(f"--steps {options.steps}: the run in {folder} needs {run.steps}{more}")
    flat = flatten(options) | {"out": str(folder), "filled": True}
    return check(set_values(run, {name: flat[name] for name in SETTINGS}), new=False)


def without_out(arguments: list[str]) -> tuple[str, ...]:
    """The command line without --out, so that it can be run again: an existing folder would be refused."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return tuple(word for before, word in pairs if "--out" not in (before, word) and not word.startswith("--out="))


# --------------------------------------------------------------------------------------------------------------------
# What does not go together


def unused(name: str, flat: dict[str, Any]) -> str | None:
    """Why a setting has no effect with the others in `flat`, or None."""
    for condition in SETTINGS[name].conditions:
        if not any(flat[key] in values for key, values in condition.choices.items()):
            users = " or ".join(f"{flag(k)} {', '.join(map(str, v))}" for k, v in condition.choices.items())
            given = ", ".join(str(flat[key]) for key in condition.choices)
            return f"{flag(name)} works only with {users}, not {given}"
    return None


def check(config: Config, new: bool = True) -> Config:
    """The same Config. Raises InputError for any mistake that can be found before anything is loaded or written.

    new: whether the run's folder must not exist yet.
    """
    flat, initial, name = flatten(config), flatten(Config()), config.algo.name
    for key, needed in ALGORITHMS[name].required.items():
        if flat[key] != needed:
            raise InputError(f"{flag(key)} {flat[key]}: {name} needs {needed}")
    for key, value in flat.items():
        reason = unused(key, flat)
        if reason and value != initial[key]:
            raise InputError(reason)
        for condition in SETTINGS[key].conditions:
            if condition.needed and not reason and value in (None, ()):
                chosen = next(choice for choice, values in condition.choices.items() if flat[choice] in values)
                raise InputError(f"{flag(chosen)} {flat[chosen]} needs {flag(key)}")
    if config.schedule.timestep == "ddim" and name not in SAMPLERS:
        raise InputError(f"--schedule.timestep ddim works only with --algo.name {', '.join(SAMPLERS)}, not {name}")
    if config.rep.init == "source" and name not in EDITS:
        raise InputError(f"--rep.init source works only with --algo.name {', '.join(EDITS)}, not {name}")

    seeds, particles, rows = config.seeds, config.particles, len(config.prompt) * config.particles
    if seeds and config.seed:
        raise InputError("--seeds replaces --seed; give only one of them")
    if seeds and len(seeds) != particles:
        raise InputError(f"{len(seeds)} --seeds: must be {particles}, one for each of a prompt's --particles")
    last = config.seed + rows - 1
    if last >= 2**32:
        raise InputError(f"--seed {config.seed}: the last of {rows} particles gets {last}; must be below 2^32")
    counts = sorted({1, len(config.prompt), rows})
    of_sources = ("source_image", "source_prompt", "source_negative_prompt", "source_mask")
    for key in ("negative_prompt", *of_sources, "rep.init_images"):
        if flat[key] and len(flat[key]) not in counts:
            needed = " or ".join(map(str, counts))
            raise InputError(f"{flag(key)}: {len(flat[key])} values are given, {needed} needed")
    batch = config.batch or particles
    if batch > particles:
        raise InputError(f"--batch {batch}: each prompt has only {particles} --particles")
    repulsion = config.algo.repulsion
    if repulsion != "none" and batch < REPULSION[repulsion][1]:
        least = REPULSION[repulsion][1]
        raise InputError(f"--algo.repulsion {repulsion} needs at least {least} --particles in each step")

    prompts, weights = len(config.algo.perp_neg_prompts), len(config.algo.perp_neg_weights)
    if prompts != weights:
        raise InputError(f"{prompts} --algo.perp-neg-prompts need as many --algo.perp-neg-weights, not {weights}")
    least, most = config.rep.min_width, config.rep.max_width
    if least > most:
        raise InputError(f"--rep.min-width {least:g} is greater than --rep.max-width {most:g}")
    validate_points("--schedule.timestep-points", config.schedule.timestep_points, config.steps, timesteps=True)
    validate_points("--schedule.weight-points", config.schedule.weight_points, config.steps)
    if config.log.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--log.tensorboard needs TensorBoard: pip install tensorboard")
    for path in (*config.source_image, *config.source_mask, *config.rep.init_images):
        open_image(path)
    if new and config.out is not None and os.path.lexists(config.out):
        raise InputError(f"--out {config.out} already exists; choose another folder")
    return config
