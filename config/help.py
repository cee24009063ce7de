"""The short help, and hints for flags that have another name in other tools."""

import importlib.metadata
import json
import platform
import textwrap
from pathlib import Path

from algorithms import ALGORITHMS
from errors import InputError
from recording.environment import commit
from representations import REPRESENTATIONS
from schedules.timestep import TIMESTEPS
from schedules.weight import WEIGHTS

FOLDER = Path(__file__).parent
INDENT = " " * 41  # of the right column in help.txt
MEANT = json.loads((FOLDER / "other_names.json").read_text(encoding="utf-8"))  # {other tools' flag: ours}


def short_help(description: str) -> str:
    """The description and the common flags, on one screen: help.txt with the available names filled in."""
    tables = {"methods": ALGORITHMS, "representations": REPRESENTATIONS, "timesteps": TIMESTEPS, "weights": WEIGHTS}
    names = {word: " ".join(table) for word, table in tables.items()}
    text = (FOLDER / "help.txt").read_text(encoding="utf-8").format(description=description.strip(), **names)
    return "\n".join(textwrap.fill(line, 120, subsequent_indent=INDENT) for line in text.splitlines())


def version() -> str:
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "transformers"))
    return f"sds2d {commit() or ''}, Python {platform.python_version()}, {', '.join(libraries)}"


def refuse_other_names(arguments: list[str]) -> None:
    """Raises InputError for a flag that has another name here."""
    for word in arguments:
        name = word.split("=")[0].replace("_", "-")
        if name in MEANT:
            raise InputError(f"unknown flag {name}; the flag is {MEANT[name]}")
