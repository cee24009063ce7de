"""From the words of a command line to a Config."""

from dataclasses import fields
from typing import Any

import tyro

from algorithms import ALGORITHMS
from config.defaults import defaults, resolve
from config.files import load, read_prompts
from config.help import refuse_other_names
from config.settings import (
    CommandLine,
    Config,
    check_values,
    flag,
    flags_in,
    flatten,
    set_values,
    settings_in,
    validated,
)
from config.validation import validate
from errors import InputError
from priors.checkpoint import user_path

RESUME_FLAGS = ("--resume", "--steps", "--prior.device", "--log.", "--quiet", "--debug", "--help")


def parse(arguments: list[str], description: str | None = None) -> Config:
    """The flags of a new run → its Config, resolved and validated. Flags come before the values of --config's file, and
    those before the defaults of the checkpoint and of the method.

    Raises InputError in one line; tyro reports what it can not parse itself, and exits with code 2.
    """
    words = flags_in(arguments)
    refuse_other_names(words)
    arguments = ["--help" if word == "--help-all" else word for word in arguments]
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
