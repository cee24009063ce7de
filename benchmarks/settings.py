"""The flags that the tables have beside those of sds2d.py."""

import os
from dataclasses import dataclass

from errors import InputError
from settings.config import Config
from settings.flags import read
from sweeps.flags import names


@dataclass
class Settings:
    out: str = "outputs/benchmark"
    """Folder of the pictures, which are made once and kept, and of the table."""
    workers: int = os.cpu_count() or 1
    """Processes, each on one core with a prior of its own."""
    write_readme: bool = False
    """Put the table into the README, between its marks."""


def split(arguments, own):
    """Command line → (an `own`, the PriorConfig, the flags that are sds2d.py's and hold for every row)."""
    flags = dict(names(own))
    mine, theirs, target = [], [], None
    for word in arguments:
        if word.startswith("--"):
            flag = word.split("=")[0].replace("_", "-")
            target = mine if flag in flags or flag.replace("--no-", "--") in flags or flag == "--help" else theirs
        if target is None:
            raise InputError(f"{word!r} stands before any flag (--help lists them)")
        target.append(word)
    options = read(mine, own)
    for name in ("workers", "rounds"):
        if getattr(options, name, 1) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: at least 1 is needed")
    return options, read(theirs, Config).prior, theirs
