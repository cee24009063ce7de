"""Settings as flags of the command line, and back."""

import ast
import contextlib
import io
import operator
import re
from dataclasses import fields, is_dataclass

from errors import InputError


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
        raise InputError(f"{in_a_line(message.getvalue())} (--help lists every flag)") from end


# What tyro says of one flag, and what a user needs to know of it.
INTEGER, NUMBER, NUMBERS = "a whole number is needed", "a number is needed", "numbers are needed"
NEEDED = {
    r"invalid literal for int": INTEGER,
    r"\{None\}\|INT": INTEGER,
    r"could not convert string to float": NUMBER,
    r"\{None\}\|FLOAT": NUMBER,
    r"FLOAT FLOAT FLOAT": f"three {NUMBERS}",
    r"Could not find valid parse": NUMBERS,
}


def in_a_line(message):
    """tyro's box as one line: the flag, what was given, what is needed."""
    lines = message.splitlines()
    # A terminal that knows UTF-8 gets a box, another a title and a rule; rules part the message from the hints.
    inside = [line.strip("│ ") for line in lines if line.startswith("│")] or lines[2:]
    text, *hints = re.split(r"\s*[─-]{8,}\s*", " ".join(" ".join(inside).split()))
    try:
        return reworded(text, hints)
    except (ValueError, SyntaxError):  # Values that a box has broken into lines may not read as values any more.
        return text


def reworded(text, hints):
    """The messages that come most, as ours are; others as they are."""
    if found := re.match(r"invalid choice (.*) for argument '(.*)'\. Expected one of (\(.*\))", text):
        given, flag, choices = found.groups()
        choices = sorted(choice for choice in ast.literal_eval(choices) if choice != "None")
        return f"{flag} {ast.literal_eval(given)}: one of {', '.join(choices)} is needed"
    if found := re.match(r"Unrecognized options: (.*)", text):
        near = re.match(r"Perhaps you meant: (--[^\s,]+)", hints[0]) if hints else None
        words = found[1].replace(", ", " ")
        if not words.startswith("-"):
            return f"{words}: after which flag?"
        return f"{words}: there is no such flag{f'; there is {near[1]}' if near else ''}"
    if found := re.match(r"Error parsing (--\S+): (.*)", text):
        flag, reason = found.groups()
        given = re.search(r"\['.*?'\]", reason) or re.search(r"'.*'$", reason)
        given = ast.literal_eval(given[0]) if given else ""
        for pattern, needed in NEEDED.items():
            if re.search(pattern, reason):
                return f"{flag} {given if isinstance(given, str) else ' '.join(given)}: {needed}"
    if found := re.match(r"Missing value for argument '(--\S+)'. Expected (\d+)", text):
        return f"{found[1]}: {'a value is' if found[2] == '1' else f'{found[2]} values are'} needed"
    return text


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
            flags.append(
                f"--{flag}" if value else "--" + ".".join([*flag.split(".")[:-1], "no-" + flag.split(".")[-1]])
            )
        elif isinstance(value, list | tuple):
            flags += spell(f"--{flag}", [str(word) for word in value])
        elif value is not None:
            flags.append(f"--{flag}={value}")
    return flags


def spell(flag, words):
    """The flag and its words, so that a first one that begins with - is not taken for a flag."""
    return (f"{flag}={words[0]}", *words[1:]) if words and words[0].startswith("-") else (flag, *words)
