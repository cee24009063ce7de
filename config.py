"""Every setting of a run: nested dataclasses, filled by the command line, a file, or Python."""

import copy
import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typeguard
import tyro
import yaml

from algorithms import ALGORITHMS, AlgorithmConfig
from errors import InputError, Range, first_line
from priors.checkpoint import EMBEDDED, checkpoint_file, locate, user_path
from priors.evaluation import EvalConfig
from priors.prior import PriorConfig
from recording.recorder import LogConfig
from representations import REPRESENTATIONS, RepresentationConfig
from representations.start import open_image
from schedules.schedule import USED_BY, ScheduleConfig, validate_schedule


@dataclass
class Config:
    prompt: tuple[str, ...] = ("a red apple",)
    """What to make. Several prompts make several rows."""
    negative_prompt: str = ""
    """y⁻, what guidance leads away from."""
    particles: Annotated[int | None, Range(1)] = None
    """Pictures for each prompt. None: 4, but 1 for edits."""
    source_image: tuple[str, ...] = ()
    """The picture that dds, pds and sdedit edit: an image file for all prompts, one a prompt, or one a particle."""
    source_prompt: tuple[str, ...] = ()
    """What that picture shows, likewise."""
    steps: Annotated[int | None, Range(1, 10**7)] = None
    """Optimiser steps. None: 1000, unless the method or the checkpoint has a default of its own."""
    seed: Annotated[int, Range(0)] = 0
    """Row i of the batch draws its random numbers from seed + i."""
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
    """Folder of a run, to continue from its last checkpoint. Only --steps, --prior.device and --log.* may be given too."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class Device:
    device: str = "auto"
    """As the run had it, unless another is given."""


@dataclass
class ResumeCommandLine:
    resume: str = ""
    """Folder of the run to continue."""
    steps: int = 0
    """Optimiser steps, at least as many as the run has."""
    prior: Device = field(default_factory=Device)
    log: LogConfig = field(default_factory=LogConfig)
    debug: bool = False
    """Show the traceback of an error."""


# ------------------------------------------------------------------------------------------------- reading and writing


def parse(arguments: list[str], description: str | None = None) -> Config:
    """The flags of a new run → its Config, resolved and validated. Flags come before the values of --config's file, and
    those before the defaults of the checkpoint and of the method.

    Raises InputError in one line; tyro reports what it can not parse itself, and exits with code 2.
    """
    options = tyro.cli(CommandLine, args=arguments, description=description)
    default = CommandLine(command=without_out(arguments))
    stored = load(user_path(options.config)) if options.config else {}
    set_values(default, stored, options.config)
    options = tyro.cli(CommandLine, args=arguments, default=copy.deepcopy(default))
    if options.resume:
        raise InputError(f"--resume {options.resume} is for sds2d.py alone")
    values, origin = defaults(options)
    set_values(default, {name: value for name, value in values.items() if name not in stored}, origin)
    options = tyro.cli(CommandLine, args=arguments, default=default)
    config = Config(**{entry.name: getattr(options, entry.name) for entry in fields(Config)})
    flags = [word.split("=")[0].replace("_", "-") for word in arguments]
    for name, value in flatten(config).items():
        if isinstance(value, tuple) and flags.count(flag(name)) > 1:
            raise InputError(f"{flag(name)} is given twice; give all of its values after one")
    return validate(resolve(config, use_defaults=False))


def parse_resume(arguments: list[str]) -> Config:
    """`--resume DIR` and what may be given with it → the Config of the run in DIR."""
    folder = user_path(tyro.cli(ResumeCommandLine, args=arguments).resume)
    config, stored = Config(out=str(folder)), load(folder / "config.yaml")
    missing = [name for name in flatten(config) if name not in (*stored, "out")]
    if missing:
        raise InputError(f"{folder / 'config.yaml'}: {missing[0]} is missing")
    set_values(config, stored, folder / "config.yaml")
    default = ResumeCommandLine(str(folder), config.steps, Device(config.prior.device), config.log)
    options = tyro.cli(ResumeCommandLine, args=arguments, default=default)
    if options.steps < config.steps or options.steps > config.steps and ALGORITHMS[config.algo.name].is_sampler:
        needed = config.steps if options.steps > config.steps else f"{config.steps} or more"
        raise InputError(f"--steps {options.steps}: the run in {folder} needs {needed}")
    config.steps, config.prior.device, config.log = options.steps, options.prior.device, options.log
    return validate(resolve(config, use_defaults=False), new=False)


def without_out(arguments: list[str]) -> tuple[str, ...]:
    """The command line that can be given again: a folder that exists would be refused."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return tuple(word for before, word in pairs if "--out" not in (before, word) and not word.startswith("--out="))


def load(file: Path) -> dict[str, Any]:
    """A YAML file of settings, ours or a user's → {dotted name: value}. Raises InputError for anything else."""

    class Loader(yaml.SafeLoader):
        """Without references: a few lines of them can stand for more than fits into memory."""

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it has references (*name)")
            return super().compose_node(parent, index)

    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{file} can not be read as settings ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} has no settings; lines such as `steps: 100` are needed")
    values = dict(nested_items(content))
    values.pop("out", None)
    return values


def nested_items(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names and values; lists as tuples."""
    for name, value in content.items():
        if isinstance(value, dict) and name != "environment":
            yield from nested_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


def dump(config: Config) -> str:
    """A Config as YAML, with all of its settings but the folder, which may be moved."""
    settings = json.loads(json.dumps(asdict(config)))  # JSON has lists for tuples, as YAML does.
    return yaml.safe_dump(
        {name: settings[name] for name in settings if name != "out"}, sort_keys=False, allow_unicode=True
    )


# ------------------------------------------------------------------------------------------------------------- access


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value, type) of every setting, nested ones too."""
    hints = get_type_hints(type(config), include_extras=True)
    for entry in fields(config):
        value, name = getattr(config, entry.name), prefix + entry.name
        if is_dataclass(value):
            yield from settings(value, f"{name}.")
        else:
            yield name, value, hints[entry.name]


def flatten(config: Any) -> dict[str, Any]:
    """{"algo.guidance_scale": 7.5, …}"""
    return {name: value for name, value, _ in settings(config)}


def set_values(config: Any, values: dict[str, Any], source: Any) -> None:
    """Sets {dotted name: value}. source: where they are from, for errors."""
    known = flatten(config)
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{source}: there is no setting {name}")
        *path, last = name.split(".")
        if isinstance(known[name], tuple):
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        setattr(functools.reduce(getattr, path, config), last, value)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# ----------------------------------------------------------------------------------------------------------- defaults


def defaults(config: Config) -> tuple[dict[str, Any], str]:
    """The defaults of the checkpoint (its sds2d.json), the method and the representation: {name: value}, and their source."""
    algorithm, kind = ALGORITHMS[config.algo.name], config.rep.kind
    checkpoint = locate(config.prior.path)
    file = checkpoint_file(checkpoint, "sds2d.json")
    method = next((name for name in (config.algo.name, algorithm.like) if name in file), config.algo.name)
    source = f"{checkpoint}/sds2d.json, {method!r}" if method in file else f"{config.algo.name}'s own"
    lines = [file.get(line, {}) for line in (kind, method, f"{method} {kind}")]
    if not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{checkpoint}/sds2d.json: {method} and {kind} should be JSON objects of settings")
    for name in (name for line in lines for name in line):
        if name.split(".")[0] not in ("algo", "rep", "schedule", "steps", "particles"):
            raise InputError(f"{checkpoint}/sds2d.json: a checkpoint can not set {name}")
    by_kind, by_method, by_both = lines
    values = {
        "steps": 1000,
        "particles": 4,
        "rep.init": "noise",
        "rep.optimizer": "adam",
        "schedule.timestep": "uniform",
    }
    values |= {"schedule.weight": "constant", "schedule.t_min": 0.02, "schedule.t_max": 0.98}
    values |= by_kind | algorithm.defaults | by_method | by_both | algorithm.required
    # What the user gave may imply the start, and a learning rate belongs to its optimizer.
    given = {
        "image": config.rep.init_images,
        "constant": config.rep.init_color,
        "noise": config.rep.init_std is not None,
    }
    values["rep.init"] = next((start for start, setting in given.items() if setting), values["rep.init"])
    if config.rep.optimizer not in (None, values["rep.optimizer"]):
        values.pop("rep.lr", None)
    flat = {**values, **{name: value for name, value in flatten(config).items() if value is not None}}
    return {name: values[name] for name in values if name in algorithm.required or not unused(name, flat)}, source


def resolve(config: Config, use_defaults: bool = True) -> Config:
    """Fills, in place, what is not set. Of a Config made in Python, what has its class's value counts as not set."""
    if use_defaults and config.rep.lr is None:
        unset, (values, source) = flatten(Config()), defaults(config)
        given = flatten(config)
        set_values(config, {name: values[name] for name in values if given.get(name) == unset.get(name)}, source)
    if config.rep.lr is None:
        config.rep.lr = REPRESENTATIONS[config.rep.kind].learning_rates[config.rep.optimizer]
    if config.rep.init == "noise" and config.rep.init_std is None:
        config.rep.init_std = 1.0
    if config.rep.init == "constant" and config.rep.init_color is None:
        config.rep.init_color = (0.5, 0.5, 0.5)
    if config.log.every is None:
        config.log.every = max(5, math.ceil(config.steps / 10))
    # config.yaml must mean the same from any directory.
    config.rep.init_images = tuple(str(user_path(path).absolute()) for path in config.rep.init_images)
    config.source_image = tuple(str(user_path(path).absolute()) for path in config.source_image)
    checkpoint = locate(config.prior.path)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(EMBEDDED.parent.parent):
        config.prior.path = str(checkpoint)
    if config.eval.clip and user_path(config.eval.clip).is_dir():
        config.eval.clip = str(user_path(config.eval.clip).absolute())
    if config.out:
        config.out = str(user_path(config.out))
    return config


# --------------------------------------------------------------------------------------------------------- validation

EDITORS = [name for name, cls in ALGORITHMS.items() if cls.edits]
GUIDED = [name for name, cls in ALGORITHMS.items() if "algo.guidance_scale" in cls.defaults]
# Settings, or groups of them, that only some choices use: (setting, {the setting that chooses: its values}).
USERS = [
    ("algo.guidance_scale", {"algo.name": GUIDED}),
    ("source_image", {"algo.name": EDITORS}),
    ("source_prompt", {"algo.name": EDITORS}),
    ("rep.init_std", {"rep.init": ["noise"]}),
    ("rep.init_color", {"rep.init": ["constant"]}),
    ("rep.init_images", {"rep.init": ["image"]}),
    ("rep.fit_steps", {"rep.init": ["image", "source"]}),
    ("rep.betas", {"rep.optimizer": ["adam", "adamw"]}),
    ("rep.eps", {"rep.optimizer": ["adam", "adamw"]}),
    *((f"algo.{name}", {"algo.name": [name]}) for name in ALGORITHMS),
    *(
        (f"schedule.{name}", {f"schedule.{key}": value for key, value in users.items()})
        for name, users in USED_BY.items()
    ),
    *(
        (f"rep.{entry.name}", {"rep.kind": [kind]})
        for kind, cls in REPRESENTATIONS.items()
        for entry in (fields(cls.Settings) if cls.Settings else ())
    ),
]


def unused(name: str, flat: dict[str, Any]) -> str | None:
    """Why the choices made in `flat` do not use a setting, or None."""
    for setting, choices in USERS:
        if f"{name}.".startswith(f"{setting}.") and all(flat[key] not in values for key, values in choices.items()):
            users = " or ".join(f"{flag(key)} {', '.join(values)}" for key, values in choices.items())
            return f"{flag(name)} is for {users}, not {', '.join(str(flat[key]) for key in choices)}"
    return None


def validate(config: Config, new: bool = True) -> Config:
    """Raises InputError, in one line, for what can be known to be wrong before anything is loaded or written.

    new: whether the run's folder must not exist yet.
    """

    def require(good, message):
        if not good:
            raise InputError(message)

    flat, initial = flatten(config), flatten(Config())
    for name, value, hint in settings(config):
        try:
            typeguard.check_type(value, hint)
        except typeguard.TypeCheckError as error:
            raise InputError(f"{flag(name)} {str(value)[:100]}: {first_line(error)}") from error
        limits = next((limit for limit in getattr(hint, "__metadata__", ()) if isinstance(limit, Range)), Range())
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, int | float) and not isinstance(part, bool):
                require(part in limits, f"{flag(name)} {part}: a number that is {limits} is needed")
            require(not isinstance(part, str) or is_text(part), f"{flag(name)} {ascii(part)} is not UTF-8")
    name, algorithm = config.algo.name, ALGORITHMS[config.algo.name]
    for key, needed in algorithm.required.items():
        require(flat[key] == needed, f"{flag(key)} {flat[key]}: {name} needs {needed}")
    for key, value in flat.items():
        reason = unused(key, flat)
        require(value == initial[key] or not reason, reason)
        if value in (None, ()) and not reason and key.removeprefix("schedule.") in USED_BY:
            raise InputError(
                f"--schedule.timestep {flat['schedule.timestep']} and weight {flat['schedule.weight']} need {flag(key)}"
            )
    require(
        config.schedule.timestep != "ddim" or algorithm.is_sampler, f"--schedule.timestep ddim: {name} is no sampler"
    )
    validate_schedule(config.schedule, config.steps)

    rows = len(config.prompt) * config.particles
    require(config.prompt, "--prompt needs at least one prompt; an empty one is ''")
    # The generators' own limit: larger seeds repeat.
    require(config.seed <= 2**32 - rows, f"--seed {config.seed}: a number from 0 up to 2^32 is needed")
    needed = {
        "rep.init_images": config.rep.init == "image",
        "source_image": algorithm.edits,
        "source_prompt": algorithm.edits,
    }
    counts = sorted({1, len(config.prompt), rows})
    for key in (key for key, is_needed in needed.items() if is_needed):
        expected = f"{' or '.join(map(str, counts))} are needed"
        require(len(flat[key]) in counts, f"{flag(key)}: {len(flat[key])} are given, {expected}")
    require(
        config.rep.init != "source" or algorithm.edits, f"--rep.init source is for {', '.join(EDITORS)}, not {name}"
    )
    for path in (*config.source_image, *config.rep.init_images):
        open_image(path)
    if new and config.out:
        validate_out(Path(config.out))
    return config


def validate_out(out: Path) -> None:
    """Raises InputError unless the folder is not there and can be made."""
    if os.path.lexists(out):
        raise InputError(f"--out {out} exists; name a folder that does not")
    parent = next(p for p in out.absolute().parents if os.path.lexists(p))
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent))  # Permission bits do not tell: root, read-only disks, /proc.
    except OSError as error:
        raise InputError(f"--out {out}: no folder can be made in {parent} ({error.strerror})") from error


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: bytes of the command line that are not arrive as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
