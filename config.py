"""Every setting of a run: nested dataclasses, filled by the command line, a file, or Python, and validated."""

import functools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.repulsion import REPULSION
from errors import InputError, first_line
from priors.checkpoint import EMBEDDED, checkpoint_file, locate, user_path
from priors.evaluation import EvalConfig
from priors.prior import PriorConfig
from recording.recorder import LogConfig
from representations import REPRESENTATIONS, RepresentationConfig
from representations.start import open_image
from schedules.curves import validate_points
from schedules.schedule import USED_BY, ScheduleConfig


@dataclass
class Config:
    prompt: tuple[str, ...] = ("a red apple",)
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
    seed: NonNegativeInt = 0
    """Row i of the batch draws its random numbers from seed + i."""
    seeds: tuple[NonNegativeInt, ...] = ()
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


adapter = functools.cache(TypeAdapter)


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


RESUME_FLAGS = ("--resume", "--steps", "--prior.device", "--log.", "--quiet", "--debug", "--help")

# ------------------------------------------------------------------------------------------------- reading and writing


def parse(arguments: list[str], description: str | None = None) -> Config:
    """The flags of a new run → its Config, resolved and validated. Flags come before the values of --config's file, and
    those before the defaults of the checkpoint and of the method.

    Raises InputError in one line; tyro reports what it can not parse itself, and exits with code 2.
    """
    options, given = tyro.cli(CommandLine, args=arguments, description=description), settings_in(arguments)
    check_values(options)  # What the flags say, before values of other sources are beside it.
    if options.resume:
        raise InputError(f"--resume {options.resume} is for sds2d.py alone")

    def fill(values, source):
        """Sets what the flags have not."""
        set_values(options, {name: value for name, value in values.items() if flag(name) not in given}, source)

    stored = {}
    if options.config:
        stored = load(options.config)
        command = stored.pop("command", ())
        fill(stored, options.config)
        flat, initial = flatten(options), flatten(CommandLine())
        if command and any(flat[name] != stored.get(name) for name in ("algo.name", "rep.kind", "prior.path")):
            # Of a run with another method only what its user gave holds; the rest were that method's defaults.
            own = settings_in(command)
            fill(
                {name: value if flag(name) in own else initial[name] for name, value in stored.items()}, options.config
            )
            stored = {name: value for name, value in stored.items() if flag(name) in own}
    if options.prompts_file:
        if "--prompt" in given:
            raise InputError("--prompts-file is in place of --prompt; one of them is needed")
        options.prompt = read_prompts(options.prompts_file)
    values, source = defaults(options)
    fill({name: value for name, value in values.items() if name not in stored}, source)
    options.command = without_out(arguments)
    for name, value in flatten(options).items():
        if isinstance(value, tuple) and flags_in(arguments).count(flag(name)) > 1:
            raise InputError(f"{flag(name)} is given twice; give all of its values after one")
    return validate(resolve(Config(**{entry.name: getattr(options, entry.name) for entry in fields(Config)})))


def read_prompts(file: str) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    try:
        prompts = tuple(filter(None, map(str.strip, user_path(file).read_text(encoding="utf-8").splitlines())))
    except (OSError, ValueError) as error:
        raise InputError(f"--prompts-file {file} can not be read ({first_line(error)})") from error
    if not prompts:
        raise InputError(f"--prompts-file {file} has no prompts; a line for each is needed")
    return prompts


def read_options(cls: type, arguments: list[str], description: str | None = None) -> tuple[Any, list[str]]:
    """The flags of another program → (an instance of its dataclass cls, the words that are no flags of its own)."""
    options, rest = tyro.cli(cls, args=arguments, description=description, return_unknown_args=True)
    return validated(cls, options), rest


def parse_resume(arguments: list[str]) -> Config:
    """`--resume DIR` and what may be given with it → the Config of the run in DIR."""
    for word in arguments:
        if word.startswith("--") and not word.startswith(RESUME_FLAGS):
            raise InputError(f"{word}: --resume takes --steps, --prior.device and --log.* only")
    options = tyro.cli(CommandLine, args=arguments)
    if not options.resume:
        raise InputError("--resume needs the folder of a run")
    folder = user_path(options.resume)
    stored = load(folder / "config.yaml")
    default = set_values(CommandLine(out=str(folder)), stored, folder / "config.yaml")
    needed = {name for name, value in defaults(default)[0].items() if value is not None}
    for name in flatten(Config()):
        if name != "out" and (name not in stored or stored[name] is None and name in needed):
            raise InputError(f"{folder / 'config.yaml'}: {name} is missing")
    steps, given, flat = default.steps, settings_in(arguments), flatten(options)
    fixed = ALGORITHMS[default.algo.name].is_sampler
    if "--steps" in given and (options.steps is None or options.steps < steps or fixed and options.steps > steps):
        raise InputError(f"--steps {options.steps}: the run in {folder} needs {steps}{'' if fixed else ' or more'}")
    set_values(default, {name: value for name, value in flat.items() if flag(name) in given}, "--resume")
    return validate(Config(**{entry.name: getattr(default, entry.name) for entry in fields(Config)}), new=False)


def without_out(arguments: list[str]) -> tuple[str, ...]:
    """The command line as it can be given again: a folder that exists would be refused."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return tuple(word for before, word in pairs if "--out" not in (before, word) and not word.startswith("--out="))


class PlainLoader(yaml.SafeLoader):
    """YAML without references, a few lines of which can stand for more than fits into memory."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has references (*name)")
        return super().compose_node(parent, index)


def load(file: str | Path) -> dict[str, Any]:
    """A YAML file of settings, ours or a user's → {dotted name: value}. Raises InputError for anything else."""
    try:
        if user_path(file).exists() and not user_path(file).is_file():
            raise ValueError("it is no file")  # A named pipe would block.
        text = user_path(file).read_text(encoding="utf-8")
        if len(text) > 2**22:
            raise ValueError("it is larger than 4 MB")
        content = yaml.load(text, PlainLoader)
        json.dumps(content)  # no dates, no objects
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{file} can not be read as settings ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} has no settings; lines such as `steps: 100` are needed")
    return {name: value for name, value in nested_items(content) if name != "out"}


def nested_items(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names and values."""
    for name, value in content.items():
        if isinstance(value, dict) and name != "environment":
            yield from nested_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def dump(config: Config) -> str:
    """A Config as YAML, with all of its settings but the folder, which may be moved."""
    settings = json.loads(json.dumps(asdict(config)))  # JSON has lists for tuples, as YAML does.
    settings.pop("out")
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


# ------------------------------------------------------------------------------------------------------------- access


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
        if isinstance(value, list) or isinstance(known[name], tuple):
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        *path, last = name.split(".")
        setattr(functools.reduce(getattr, path, config), last, value)
    try:
        check_values(config)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return config


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def flags_in(arguments: Iterable[str]) -> list[str]:
    return [word.split("=")[0].replace("_", "-") for word in arguments]


def settings_in(arguments: Iterable[str]) -> set[str]:
    """The flags of the settings that a command line gives: --schedule.shared-t of --schedule.no-shared-t, too."""
    return {re.sub(r"^(--(?:.*\.)?)no-", r"\1", word) for word in flags_in(arguments)}


# ----------------------------------------------------------------------------------------------------------- defaults


def defaults(config: Config) -> tuple[dict[str, Any], str]:
    """Of the checkpoint (its sds2d.json), the method and the representation: {name: value}, and where they are from."""
    name, kind = config.algo.name, config.rep.kind
    algorithm, representation = ALGORITHMS[name], REPRESENTATIONS[kind]
    checkpoint = locate(config.prior.path)
    file = checkpoint_file(checkpoint, "sds2d.json")
    method = next((key for key in (name, algorithm.like) if key in file), name)
    own = f"{name} {kind}"
    both = own if own in file else f"{method} {kind}"
    lines = [file.get(line, {}) for line in (kind, method, both)]
    if not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{checkpoint}/sds2d.json: {kind}, {method} and {both} should be objects of settings")
    for key in (key for line in lines for key in line):
        if key.split(".")[0] not in ("algo", "rep", "schedule", "steps", "particles"):
            raise InputError(f"{checkpoint}/sds2d.json: {key} is no setting that a checkpoint has defaults for")
    if config.paper:
        lines[1:] = [{key: line[key] for key in line if key.startswith(("rep.", "steps"))} for line in lines[1:]]
    by_kind, by_method, by_both = lines
    values = {"steps": 1000, "particles": 4, "schedule.timestep": "uniform", "schedule.weight": "constant"}
    values |= {"schedule.t_min": 0.02, "rep.init": "noise", "rep.init_std": 1.0}
    values |= {"rep.init_color": (0.5, 0.5, 0.5), "rep.optimizer": "adam"}
    values |= by_kind | algorithm.defaults | by_method | by_both | algorithm.required
    values["particles"] = len(config.seeds) or values["particles"]
    # What the user gave may imply the start, and a learning rate belongs to its optimizer.
    given = [("image", config.rep.init_images), ("constant", config.rep.init_color)]
    given += [("noise", config.rep.init_std is not None)]
    values["rep.init"] = next((start for start, setting in given if setting), values["rep.init"])
    optimizer = config.rep.optimizer or values["rep.optimizer"]
    if optimizer != values["rep.optimizer"] or "rep.lr" not in values:
        values["rep.lr"] = representation.learning_rates[optimizer]
    initial = flatten(Config())
    flat = flatten(config)
    flat |= {key: value for key, value in values.items() if flat.get(key) == initial.get(key)}
    values = {key: values[key] for key in values if key in algorithm.required or not unused(key, flat)}
    own = config.paper or method not in file
    return values, f"of {name} itself" if own else f"{config.prior.path}/sds2d.json, {method}"


def resolve(config: Config) -> Config:
    """Fills what is not set, in place: for a Config made in Python, what has its class's value. Paths become
    absolute."""
    check_values(config)
    given, initial, (values, source) = flatten(config), flatten(Config()), defaults(config)
    if any(given.get(name) is None and values[name] is not None for name in values):
        set_values(config, {name: values[name] for name in values if given.get(name) == initial.get(name)}, source)
    config.log.every = config.log.every or max(5, math.ceil(config.steps / 10))
    # config.yaml must mean the same from any directory.
    config.rep.init_images = tuple(str(user_path(path).absolute()) for path in config.rep.init_images)
    config.source_image = tuple(str(user_path(path).absolute()) for path in config.source_image)
    config.source_mask = tuple(str(user_path(path).absolute()) for path in config.source_mask)
    checkpoint = locate(config.prior.path)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(EMBEDDED.parent.parent):
        config.prior.path = str(checkpoint)
    if config.eval.clip and user_path(config.eval.clip).is_dir():
        config.eval.clip = str(user_path(config.eval.clip).absolute())
    config.out = None if config.out is None else str(user_path(config.out))
    return config


# --------------------------------------------------------------------------------------------------------- validation

EDITORS = [name for name, cls in ALGORITHMS.items() if cls.edits]
SAMPLERS = [name for name, cls in ALGORITHMS.items() if cls.is_sampler]
GUIDED = [name for name, cls in ALGORITHMS.items() if "algo.guidance_scale" in cls.defaults]
GUIDANCE = ("guidance_rescale", "perp_neg_prompts", "perp_neg_weights")  # of ε̂^s
OF_OPTIMISATION = ("batch", "algo.updates_per_step", "algo.repulsion", "rep.lr_schedule", "rep.lr_warm_up")
OF_SOURCE = ("algo.source_guidance_scale", "source_negative_prompt", "source_mask")  # of an edit's steps
LEARNT = ("lora_lr", "lora_updates", "lora_warm_up", "lora_particles", "gamma")  # of VSD
INVERSION = ("inversion_guidance_scale", "inversion_steps", "eta")  # of SDI
# Settings, or groups of them, that only some choices use: (setting, {the setting that chooses: its values}).
CHOICES = [
    ("algo.guidance_scale", {"algo.name": GUIDED}),
    *((f"algo.{name}", {"algo.name": [name for name in GUIDED if name != "nfsd"]}) for name in GUIDANCE),
    *((name, {"algo.name": [name for name in ALGORITHMS if name not in SAMPLERS]}) for name in OF_OPTIMISATION),
    ("algo.repulsion_scale", {"algo.repulsion": list(REPULSION)}),
    *((name, {"algo.name": [name for name in EDITORS if name not in SAMPLERS]}) for name in OF_SOURCE),
    *((name, {"algo.name": EDITORS}) for name in ("source_image", "source_prompt")),
    ("rep.init_std", {"rep.init": ["noise"]}),
    ("rep.init_color", {"rep.init": ["constant"]}),
    ("rep.init_images", {"rep.init": ["image"]}),
    ("rep.fit_steps", {"rep.init": ["image", "source"]}),
    *((name, {"rep.optimizer": ["adam", "adamw"]}) for name in ("rep.betas", "rep.eps")),
    *((f"algo.{name}", {"algo.name": [name]}) for name in ALGORITHMS),
    *((f"algo.vsd.{name}", {"algo.vsd.phi": ["lora"]}) for name in ("lora_layers", "lora_rank")),
    *((f"algo.vsd.{name}", {"algo.vsd.phi": ["lora", "full"]}) for name in LEARNT),
    *((f"algo.sdi.{name}", {"algo.sdi.noise": ["inverted"]}) for name in INVERSION),
    *((f"schedule.{name}", {f"schedule.{key}": users[key] for key in users}) for name, users in USED_BY.items()),
]
OWN = {kind: [entry.name for entry in fields(cls.Settings)] for kind, cls in REPRESENTATIONS.items() if cls.Settings}
for setting in dict.fromkeys(name for names in OWN.values() for name in names):
    CHOICES.append((f"rep.{setting}", {"rep.kind": [kind for kind in OWN if setting in OWN[kind]]}))


def unused(name: str, flat: dict[str, Any]) -> str | None:
    """Why the choices in `flat` do not use a setting, or None."""
    for setting, choices in CHOICES:
        if f"{name}.".startswith(f"{setting}.") and all(flat[key] not in choices[key] for key in choices):
            users = " or ".join(f"{flag(key)} {', '.join(choices[key])}" for key in choices)
            return f"{flag(name)} is for {users}, not {', '.join(str(flat[key]) for key in choices)}"
    return None


def validated(cls: type, config: Any) -> Any:
    """A dataclass with its values converted to the types of the dataclass cls; InputError names one that is wrong."""
    try:
        return adapter(cls).validate_python(asdict(config))
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(part for part in fault["loc"] if isinstance(part, str) and part.isidentifier())
        raise InputError(f"{flag(name)} {str(fault['input'])[:100]}: {fault['msg']}") from error


def check_values(config: Config) -> None:
    """Every setting by itself: its type and its limits. Raises InputError; what stands for another type is
    converted."""
    vars(config).update(vars(validated(Config, config)))
    for name, value in flatten(config).items():
        if ascii(value).count("\\udc"):  # Bytes of the command line that are not UTF-8 arrive as surrogates.
            raise InputError(f"{flag(name)} {ascii(value)} is not UTF-8")


def validate(config: Config, new: bool = True) -> Config:
    """Raises InputError for what can be known to be wrong before anything is loaded or written.

    new: whether the run's folder must not exist yet.
    """

    def require(good, message):
        if not good:
            raise InputError(message)

    check_values(config)
    flat, initial, name = flatten(config), flatten(Config()), config.algo.name
    algorithm, rows = ALGORITHMS[name], len(config.prompt) * config.particles
    for key, needed in algorithm.required.items():
        require(flat[key] == needed, f"{flag(key)} {flat[key]}: {name} needs {needed}")
    for key, value in flat.items():
        reason = unused(key, flat)
        require(value == initial[key] or not reason, reason)
        of_schedule = key.removeprefix("schedule.") in USED_BY and key != "schedule.t_max"  # the prior has a default
        if value in (None, ()) and not reason and of_schedule:
            chooser = f"schedule.{next(iter(USED_BY[key.removeprefix('schedule.')]))}"
            raise InputError(f"{flag(chooser)} {flat[chooser]} needs {flag(key)}")
    for key, value, names in (("schedule.timestep", "ddim", SAMPLERS), ("rep.init", "source", EDITORS)):
        if flat[key] == value and name not in names:
            raise InputError(f"{flag(key)} {value} is for --algo.name {', '.join(names)}, not {name}")
    require(config.prompt, "--prompt needs at least one prompt; an empty one is ''")
    highest = max(config.seed + rows - 1, *config.seeds, 0)
    require(highest < 2**32, f"--seed {highest}: a number below 2^32 is needed")  # Larger seeds repeat.
    require(not (config.seeds and config.seed), "--seeds is in place of --seed; one of them is needed")
    count = f"{len(config.seeds)} --seeds: {config.particles} are needed, one for each of a prompt's --particles"
    require(not config.seeds or len(config.seeds) == config.particles, count)
    needed = ["negative_prompt"] + (["source_image", "source_prompt"] if algorithm.edits else [])
    needed += ["rep.init_images"] if flat["rep.init"] == "image" else []
    needed += [key for key in ("source_negative_prompt", "source_mask") if flat[key]]
    for key in needed:
        counts = sorted({1, len(config.prompt), rows})
        message = f"{name} from {flat['rep.init']} needs {flag(key)}, {' or '.join(map(str, counts))} of them"
        require(len(flat[key]) in counts, f"{message}; {len(flat[key])} are given")
    batch = config.batch or config.particles
    require(batch <= config.particles, f"--batch {batch}: each prompt has {config.particles} --particles")
    prompts, weights = config.algo.perp_neg_prompts, config.algo.perp_neg_weights
    message = f"{len(prompts)} --algo.perp-neg-prompts need as many --algo.perp-neg-weights, below 0"
    require(len(prompts) == len(weights) and all(weight < 0 for weight in weights), message)
    if config.algo.repulsion != "none":
        _, least = REPULSION[config.algo.repulsion]
        message = f"--algo.repulsion {config.algo.repulsion} needs {least} --particles or more in each step"
        require(batch >= least, message)
    validate_points("--schedule.timestep-points", config.schedule.timestep_points, config.steps, timesteps=True)
    validate_points("--schedule.weight-points", config.schedule.weight_points, config.steps)
    for path in (*config.source_image, *config.source_mask, *config.rep.init_images):
        open_image(path)
    if new and config.out is not None and os.path.lexists(config.out):
        raise InputError(f"--out {config.out} exists; name another folder")
    return config
