"""The settings: what the command line says, what checkpoint, method and representation bring, and what is refused."""

import contextlib
import io
import math
import operator
import os
import re
import tempfile
import time
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

# They are parsed before torch and its libraries load: --help and wrong flags answer at once. For this every file below
# imports torch inside the functions that need it.
from algorithms import ALGORITHMS, AlgorithmConfig
from evaluation import EvalConfig
from prior import InputError, PriorConfig, checkpoint_file, locate
from recording import LogConfig
from representations import REPRESENTATIONS, RepresentationConfig
from representations.start import open_image
from schedules import ScheduleConfig, uses
from schedules.check import check as check_schedule


@dataclass
class Config:
    prompt: tuple[str, ...] = ("a red apple",)
    """What to make. Several prompts make several rows."""
    negative_prompt: str = ""
    """y⁻, what guidance leads away from."""
    particles: int | None = None
    """Pictures for each prompt. None: 4, but 1 for edits."""
    source_image: tuple[str, ...] = ()
    """What dds and pds edit: an image file for all prompts, one a prompt, or one a particle."""
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


def advice(asked):
    """The settings that this checkpoint, method and representation bring with them, {name: value}, to stand before the user's."""
    algorithm, kind = ALGORITHMS[asked.algo.name], asked.rep.kind
    checkpoint = locate(asked.prior.path)
    file = checkpoint_file(checkpoint, "sds2d.json")
    names = (kind, asked.algo.name, f"{asked.algo.name} {kind}")
    for name in names:
        if not isinstance(file.get(name, {}), dict):
            raise InputError(f"{checkpoint}/sds2d.json: {name} should be a JSON object of settings")
    by_kind, by_method, by_both = (file.get(name, {}) for name in names)
    values = {
        "steps": 1000,
        "particles": 4,
        "schedule.timestep": "uniform",
        "schedule.weight": "constant",
        "schedule.t_min": 0.02,
        "schedule.t_max": 0.98,
        "rep.init": "noise",
        "rep.optimizer": "adam",
        **by_kind,
        **algorithm.defaults,
        **by_method,
        **by_both,
        **algorithm.requires,
    }
    # What the user implies comes first; and a learning rate is advice for the optimizer it comes with.
    if asked.rep.init_images:
        values["rep.init"] = "image"
    elif asked.rep.init_color:
        values["rep.init"] = "constant"
    elif asked.rep.init_std is not None:
        values["rep.init"] = "noise"
    # Advice on one start is none on another.
    start = asked.rep.init or values["rep.init"]
    for setting, belongs in (("rep.init_std", "noise"), ("rep.init_color", "constant")):
        if start != belongs and setting not in algorithm.requires:
            values.pop(setting, None)
    if asked.rep.optimizer not in (None, values["rep.optimizer"]):
        values.pop("rep.lr", None)
    # And on one schedule none on another.
    chosen = [getattr(asked.schedule, kind) or values[f"schedule.{kind}"] for kind in ("timestep", "weight")]
    for name in [name for name in values if name.startswith("schedule.") and name not in algorithm.requires]:
        if not uses(name.split(".")[1], *chosen):
            values.pop(name)
    return values


def resolve(config):
    """Fills what is still None, and makes paths absolute."""
    if config.rep.lr is None:
        config.rep.lr = REPRESENTATIONS[config.rep.kind].learning_rates[config.rep.optimizer]
    if config.rep.init == "noise" and config.rep.init_std is None:
        config.rep.init_std = 1.0
    if config.rep.init == "constant" and config.rep.init_color is None:
        config.rep.init_color = (0.5, 0.5, 0.5)
    if config.log.every is None:
        config.log.every = max(5, math.ceil(config.steps / 10))

    # config.yaml must mean the same from any directory.
    config.rep.init_images = tuple(str(Path(path).absolute()) for path in config.rep.init_images)
    config.source_image = tuple(str(Path(path).absolute()) for path in config.source_image)
    checkpoint = locate(config.prior.path)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(Path(__file__).resolve().parent):
        config.prior.path = str(checkpoint)
    if config.out is None:
        slug = re.sub(r"[^a-z0-9]+", "-", config.prompt[0].lower()).strip("-")[:40] if config.prompt else ""
        config.out = f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-{config.algo.name}-{config.rep.kind}-{slug or 'prompt'}"
    return config


def check(config):
    """Raises InputError, in one line, for what can be known to be wrong before anything is computed or written."""

    def require(good, message):
        if not good:
            raise InputError(message)

    rows = len(config.prompt) * config.particles
    require(config.prompt, "--prompt needs at least one prompt; an empty one is ''")
    for name, value in {"particles": config.particles, "steps": config.steps, "log.every": config.log.every,
                        "log.fps": config.log.fps, "log.tile": config.log.tile, "log.timesteps_every": config.log.timesteps_every}.items():  # fmt: skip
        require(value is None or value >= 1, f"--{name.replace('_', '-')} {value}: at least 1 is needed")
    for t in config.log.timesteps:
        require(0 <= t < math.inf, f"--log.timesteps {t}: timesteps from 0, or fractions of T up to 1, are needed")
    # The generators' own limit: larger seeds repeat.
    require(0 <= config.seed <= 2**32 - rows, f"--seed {config.seed}: a number from 0 up to 2^32 is needed")
    require(0 < config.rep.lr < math.inf, f"--rep.lr {config.rep.lr}: a learning rate above 0 is needed")
    name, algorithm, scale = config.algo.name, ALGORITHMS[config.algo.name], config.algo.guidance_scale
    require("algo.guidance_scale" in algorithm.defaults or scale is None, f"--algo.guidance-scale: {name} has none")
    require(scale is None or math.isfinite(scale), f"--algo.guidance-scale {scale}: a finite number is needed")
    algorithm.check(getattr(config.algo, name, None), require)
    for key, needed in algorithm.requires.items():
        value = operator.attrgetter(key)(config)
        require(value == needed, f"--{key.replace('_', '-')} {value}: {name} needs {needed}")
    for other, cls in ALGORITHMS.items():
        require(other == name or not cls.Settings or getattr(config.algo, other) == cls.Settings(),
                f"--algo.{other}. settings are for --algo.name {other}, not {name}")  # fmt: skip
    require(config.schedule.timestep != "ddim" or name == "ddim", f"--schedule.timestep ddim is for --algo.name ddim, not {name}")
    check_schedule(config.schedule, config.steps, require)

    def require_for_rows(flag, values):
        counts = sorted({1, len(config.prompt), rows})
        require(len(values) in counts, f"{flag}: {len(values)} are given, {' or '.join(map(str, counts))} are needed")

    if algorithm.edits:
        require(config.source_image, f"{name} edits: --source-image FILE is missing")
        require(config.source_prompt, f"{name} edits: --source-prompt, what is seen in the source image, is missing")
        require_for_rows("--source-image", config.source_image)
        require_for_rows("--source-prompt", config.source_prompt)
    else:
        editors = " and ".join(key for key, value in ALGORITHMS.items() if value.edits)
        require(not config.source_image, f"--source-image is for {editors}; {name} can start from --rep.init-images")
        require(not config.source_prompt, f"--source-prompt is for {editors}, not {name}")
        require(config.rep.init != "source", f"--rep.init source is for {editors}, not {name}")
    REPRESENTATIONS[config.rep.kind].check(config.rep, require)
    for kind, cls in REPRESENTATIONS.items():
        for setting in fields(cls.Settings) if cls.Settings and kind != config.rep.kind else ():
            require(getattr(config.rep, setting.name) == setting.default,
                    f"--rep.{setting.name.replace('_', '-')} is for --rep.kind {kind}, not {config.rep.kind}")  # fmt: skip
    std, color = config.rep.init_std, config.rep.init_color
    if config.rep.init == "noise":
        require(0 <= std < math.inf, f"--rep.init-std {std}: 0 or more is needed")
    else:
        require(std is None, f"--rep.init-std is for --rep.init noise, not {config.rep.init}")
    if config.rep.init == "constant":
        require(all(0 <= c <= 1 for c in color), f"--rep.init-color {color}: three numbers in [0, 1]")
    else:
        require(color is None, f"--rep.init-color is for --rep.init constant, not {config.rep.init}")
    if config.rep.init == "image":
        require(config.rep.init_images, "--rep.init image needs --rep.init-images FILE …")
        require_for_rows("--rep.init-images", config.rep.init_images)
    else:
        require(not config.rep.init_images, f"--rep.init-images is for --rep.init image, not {config.rep.init}")
    for path in (*config.source_image, *config.rep.init_images):
        open_image(path)

    out = Path(config.out)
    require(not os.path.lexists(out), f"--out {out} exists; name a folder that does not")
    parent = next(p for p in out.absolute().parents if os.path.lexists(p))
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent))  # The permission bits do not tell: root, read-only disks, /proc.
    except OSError as error:
        raise InputError(f"--out {out}: no folder can be made in {parent} ({error.strerror})") from error


def read(arguments, cls=Config, description=None):
    """Command line → Config, or another dataclass, as it stands there. tyro's box of several lines becomes one line."""
    import tyro

    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(cls, args=arguments, description=description)
    except SystemExit as end:
        if not end.code:
            raise
        lines = message.getvalue().splitlines()
        # A terminal that knows UTF-8 gets a box, another a title and a rule; rules part the message from the hints.
        inside = [line.strip("│ ") for line in lines if line.startswith("│")] or lines[2:]
        text = re.sub(r"\s*[─-]{8,}\s*", " | ", " ".join(inside)).split(" | For full")[0].split(" | Argument")[0]
        raise InputError(f"{' '.join(text.split())} (--help lists every flag)") from end


def parse(arguments, description=None):
    """Command line → Config, resolved and checked: the user's flags, after those that the checkpoint and the method bring."""
    asked = read(arguments, description=description)
    flags = as_flags(advice(asked))
    try:
        config = read([*flags, *arguments])
    except InputError as error:  # The user's own flags passed above.
        raise InputError(f"{locate(asked.prior.path)}/sds2d.json, or the defaults of {asked.algo.name}: {error}") from error
    check(resolve(config))
    return config


def flatten(config, prefix=""):
    """Every setting of a dataclass, nested ones too: {"algo.guidance_scale": 7.5, …}."""
    found = {}
    for entry in fields(config):
        value, name = getattr(config, entry.name), prefix + entry.name
        found |= flatten(value, f"{name}.") if is_dataclass(value) else {name: value}
    return found


def as_flags(values):
    """Settings as flags of the command line; one that is None is left out."""
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else "--" + ".".join([*flag.split(".")[:-1], "no-" + flag.split(".")[-1]]))
        elif isinstance(value, list | tuple):
            flags += spell(f"--{flag}", [str(word) for word in value])
        elif value is not None:
            flags.append(f"--{flag}={value}")
    return flags


def spell(flag, words):
    """The flag and its words, so that a first one that begins with - is not taken for a flag."""
    return (f"{flag}={words[0]}", *words[1:]) if words and words[0].startswith("-") else (flag, *words)


def command(config):
    """The flags that lead to this Config again, but for its folder: what checkpoint and method bring by themselves is left out."""
    wanted, last = flatten(config), None
    names = [name for name in wanted if name != "out"]
    given = {name: wanted[name] for name in ("algo.name", "rep.kind", "prior.path") if wanted[name] != flatten(Config())[name]}
    while given != last:  # A setting may bring others with it, or do away with them.
        last = dict(given)
        found = flatten(resolve(configured({**advice(configured(given)), **given})))
        given |= {name: wanted[name] for name in names if found[name] != wanted[name]}
    return as_flags(given)


def configured(values):
    """{name: value} → Config, all else at its default."""
    config = Config()
    for name, value in values.items():
        *path, last = name.split(".")
        owner = operator.attrgetter(".".join(path))(config) if path else config
        setattr(owner, last, tuple(value) if isinstance(value, list) else value)
    return config
