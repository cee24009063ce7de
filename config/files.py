"""Settings and prompts in files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from config.settings import Config, adapter
from errors import InputError, first_line
from priors.checkpoint import user_path


class PlainLoader(yaml.SafeLoader):
    """YAML without references, a few lines of which can stand for more than fits into memory."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has references (*name)")
        return super().compose_node(parent, index)


def load(file: str | Path) -> dict[str, Any]:
    """A YAML file of settings, ours or a user's → {dotted name: value}. Raises InputError for anything else."""
    try:
        if not user_path(file).is_file():  # A named pipe would block.
            raise ValueError("no such file")
        text = user_path(file).read_text(encoding="utf-8")
        if len(text) > 2**22:
            raise ValueError("it is larger than 4 MB")
        content = yaml.load(text, PlainLoader)
        json.dumps(content)  # no dates, no objects
    except Exception as error:  # PyYAML raises whatever its constructors trip over.
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{file} cannot be read as settings ({reason})") from error
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
    settings = adapter(Config).dump_python(config, mode="json", exclude={"out"})
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def read_prompts(file: str) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    try:
        lines = user_path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--prompts-file {file} cannot be read ({first_line(error)})") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise InputError(f"--prompts-file {file} has no prompts; a line for each is needed")
    return prompts
