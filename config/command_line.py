"""Turns a command line into a Config."""

from typing import Any

import tyro

from algorithms import ALGORITHMS
from config.defaults import resolve
from config.files import load, read_prompts
from config.help import refuse_other_names
from config.settings import CommandLine, Config, check_values, flag, flatten, set_values, settings_in, validated
from config.validation import validate
from errors import require
from priors.files import user_path

WITH_RESUME = ("resume", "steps", "prior.device", "log.", "quiet", "debug", "help")


def parse(arguments: list[str], description: str | None = None) -> Config:
    """The flags of a new run → its Config, resolved and validated. Flags take precedence over values from --config, and
    those over the defaults of the checkpoint and the method.

    Raises InputError; tyro itself reports what it cannot parse, and exits with code 2.
    """
    refuse_other_names(arguments)
    words = ["--help" if word == "--help-all" else word for word in arguments]
    options, given = tyro.cli(CommandLine, args=words, description=description), settings_in(arguments)
    check_values(options)  # Check the flags by themselves, before values from other sources are merged in.
    flat = flatten(options)
    for name in given:
        twice = isinstance(flat.get(name), tuple) and given.count(name) > 1
        require(not twice, f"{flag(name)} is given twice; give it once, followed by all of its values")
    require(not options.resume, f"--resume {options.resume} works only with sds2d.py")
    if options.prompts_file:
        require("prompt" not in given, "--prompts-file replaces --prompt; give only one of them")
        options.prompt = read_prompts(options.prompts_file)
        given.append("prompt")
    if options.config:
        stored = load(options.config)
        run = flatten(set_values(Config(), stored, options.config))
        kept, chooses = set(stored), ("algo.name", "rep.kind", "prior.path")
        if run["command"] and any(name in given and flat[name] != run[name] for name in chooses):
            # Now that one of these differs, keep only what that run's command gave: the rest were defaults.
            kept &= set(settings_in(run["command"]))
        set_values(options, {name: run[name] for name in kept.difference(given)}, options.config)
        given += kept
    config = validated(Config, options)
    config.command = without_out(arguments)
    return validate(resolve(config, given))


def read_options(cls: type, arguments: list[str], description: str | None = None) -> tuple[Any, list[str]]:
    """The flags of another program → (an instance of its dataclass cls, the remaining arguments)."""
    options, rest = tyro.cli(cls, args=arguments, description=description, return_unknown_args=True)
    return validated(cls, options), rest


def parse_resume(arguments: list[str]) -> Config:
    """`--resume DIR` and the flags allowed with it → the Config of the run in DIR."""
    given = settings_in(arguments)
    for name in given:
        message = f"{flag(name)}: --resume accepts only --steps, --prior.device, --log.*, --quiet and --debug"
        require(name.startswith(WITH_RESUME), message)
    options = tyro.cli(CommandLine, args=arguments)
    require(options.resume, "--resume needs a run folder")
    folder = user_path(options.resume)
    stored = load(folder / "config.yaml")
    config = set_values(Config(), stored, folder / "config.yaml")
    empty = [name for name, value in flatten(config).items() if value is None]
    filled = flatten(resolve(config, given=stored))
    for name in filled:
        there = name == "out" or name in stored and (name not in empty or filled[name] is None)
        require(there, f"{folder / 'config.yaml'}: the setting {name} is missing")
    fixed, more = ALGORITHMS[config.algo.name].is_sampler, (options.steps or 0) - config.steps
    message = f"--steps {options.steps}: the run in {folder} needs {config.steps}{'' if fixed else ' or more'}"
    require("steps" not in given or more == 0 or more > 0 and not fixed, message)
    changes = {name: value for name, value in flatten(options).items() if name in given and name in filled}
    set_values(config, changes | {"out": str(folder)}, "--resume")
    return validate(config, new=False)


def without_out(arguments: list[str]) -> tuple[str, ...]:
    """The command line without --out, so that it can be run again: an existing folder would be refused."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return tuple(word for before, word in pairs if "--out" not in (before, word) and not word.startswith("--out="))
