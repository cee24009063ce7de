"""Settings as flags of the command line, and back."""

import contextlib
import io
import operator
import re
from dataclasses import fields, is_dataclass

from prior import InputError


def read(arguments, cls, description=None, default=None):
    """Command line → a dataclass as it stands there, over `default` or the class's own defaults.

    Raises InputError with tyro's message, a box of several lines, in one.
    """
    import tyro

    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(cls, args=arguments, description=description, **({"default": default} if default else {}))
    except SystemExit as end:
        if not end.code:
            raise
        lines = message.getvalue().splitlines()
        # A terminal that knows UTF-8 gets a box, another a title and a rule; rules part the message from the hints.
        inside = [line.strip("│ ") for line in lines if line.startswith("│")] or lines[2:]
        text = re.sub(r"\s*[─-]{8,}\s*", " | ", " ".join(inside)).split(" | For full")[0].split(" | Argument")[0]
        raise InputError(f"{' '.join(text.split())} (--help lists every flag)") from end


def flatten(config, prefix=""):
    """Every setting of a dataclass, nested ones too: {"algo.guidance_scale": 7.5, …}."""
    found = {}
    for entry in fields(config):
        value, name = getattr(config, entry.name), prefix + entry.name
        found |= flatten(value, f"{name}.") if is_dataclass(value) else {name: value}
    return found


def configured(config, values):
    """The dataclass with the settings of {name: value}."""
    for name, value in values.items():
        *path, last = name.split(".")
        owner = operator.attrgetter(".".join(path))(config) if path else config
        setattr(owner, last, tuple(value) if isinstance(value, list) else value)
    return config


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
