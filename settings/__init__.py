"""From the command line to a Config: parse() for a new run, reopen() for one that is there already."""

from dataclasses import fields
from pathlib import Path

from algorithms import ALGORITHMS
from errors import InputError
from priors.checkpoint import locate
from settings.advice import advice, resolve
from settings.check import check
from settings.config import CommandLine, Config
from settings.flags import as_flags, configured, flatten, read
from settings.stored import load


def parse(arguments, description=None):
    """Flags of a new run → its Config, resolved and checked: they come after those that the checkpoint and the method bring.

    Raises InputError, in one line, for what is wrong.
    """
    asked = read(arguments, CommandLine, description)
    if asked.resume:
        raise InputError(f"--resume {asked.resume} is for sds2d.py alone")
    if asked.config:
        arguments = [*command(load(Path(asked.config))[0]), *arguments]
        asked = read(arguments, CommandLine)
    flags = as_flags(advice(asked))
    try:
        config = read([*flags, *arguments], CommandLine).settings()
    except InputError as error:  # The user's own flags passed above.
        raise InputError(
            f"{locate(asked.prior.path)}/sds2d.json, or the defaults of {asked.algo.name}: {error}"
        ) from error
    check(resolve(config))
    return config


def resumes(arguments):
    return any(word.split("=")[0] == "--resume" for word in arguments)


def repeats(arguments):
    """What the run of --config FILE was made with, or None without one. For arguments that parse() has taken."""
    file = read(arguments, CommandLine).config
    return load(Path(file))[1] if file else None


def reopen(arguments):
    """Flags with --resume DIR → (the Config of the run in DIR, what it was made with).

    Raises InputError for a flag that contradicts the run, more --steps aside, and for a folder that holds none.
    """
    asked = read(arguments, CommandLine)
    if asked.config:
        raise InputError("--resume goes on with a run, --config begins one: give one of them")
    if not asked.resume:
        raise InputError("--resume needs the folder of a run")
    folder = Path(asked.resume)
    config, made_with = load(folder / "config.yaml")
    check_whole(folder / "config.yaml", config)
    config.out = str(folder)
    resolve(config)
    default = CommandLine(**{entry.name: getattr(config, entry.name) for entry in fields(Config)})
    asked = resolve(read(arguments, CommandLine, default=default).settings())
    wanted = flatten(asked)
    for name, value in flatten(config).items():
        flag, new = f"--{name.replace('_', '-')}", wanted[name]
        if name in ("prior.dtype", "prior.device") and new == "auto":
            continue
        if name == "steps" and not ALGORITHMS[config.algo.name].samples():
            if new < value:
                raise InputError(f"{flag} {new}: the run in {folder} has {value}; they may grow")
        elif (Path(new).absolute() != Path(value).absolute()) if name == "out" else new != value:
            raise InputError(f"{flag} {shown(new)} contradicts the run in {folder}, which has {shown(value)}")
    config.steps = asked.steps
    check(config, new=False)
    return config, made_with


def check_whole(file, config):
    """Requires what no run can do without: a stored Config is resolved."""
    guided = ["algo.guidance_scale"] if "algo.guidance_scale" in ALGORITHMS[config.algo.name].defaults else []
    always = [
        "particles",
        "steps",
        "rep.init",
        "rep.optimizer",
        "rep.lr",
        "schedule.timestep",
        "schedule.weight",
        "log.every",
    ]
    for name in always + guided:
        if flatten(config)[name] is None:
            raise InputError(f"{file}: {name} is missing")


def shown(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def command(config):
    """The flags that lead to this Config again, but for its folder: what checkpoint and method bring themselves is left out."""
    wanted, last = flatten(config), None
    names = [name for name in wanted if name != "out"]
    given = {
        name: wanted[name]
        for name in ("algo.name", "rep.kind", "prior.path")
        if wanted[name] != flatten(Config())[name]
    }
    while given != last:  # A setting may bring others with it, or do away with them.
        last = dict(given)
        found = flatten(resolve(configured(Config(), {**advice(configured(Config(), given)), **given})))
        given |= {name: wanted[name] for name in names if found[name] != wanted[name]}
    return as_flags(given)
