"""Reads and writes files of settings and prompts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from config.settings import Config, adapter
from errors import InputError, first_line
from priors.checkpoint import user_path


class PlainLoader(yaml.SafeLoader):
    """YAML without references (aliases), a few lines of which can expand to more than fits into memory."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references such as *name are not allowed")
        return super().compose_node(parent, index)


def load(file: str | Path) -> dict[str, Any]:
    """A YAML file of settings, from a run or a user → {dotted name: value}. Raises InputError for anything else."""
    try:
        if not user_path(file).is_file():  # A named pipe would block.
            raise ValueError("no such file")
        text = user_path(file).read_text(encoding="utf-8")
        if len(text) > 2**22:
            raise ValueError("it is larger than 4 MB")
        content = yaml.load(text, PlainLoader)
        json.dumps(content)  # refuses dates and other objects
    except Exception as error:  # PyYAML's constructors can raise anything.
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{file} cannot be read as settings ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} has no settings; it needs lines such as `steps: 100`")
    return {name: value for name, value in nested_items(content) if name != "out"}


def nested_items(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names and values in nested mappings."""
    for name, value in content.items():
        if isinstance(value, dict) and name != "environment":
            yield from nested_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def dump(config: Config) -> str:
    """A Config as YAML: all of its settings except the folder, which may be moved."""
    settings = adapter(Config).dump_python(config, mode="json", exclude={"out"})
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def read_prompts(file: str) -> tuple[str, ...]:
    """The non-empty lines of a text file."""
    try:
        lines = user_path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--prompts-file {file} cannot be read ({first_line(error)})") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise InputError(f"--prompts-file {file} has no prompts; it needs one per line")
    return prompts
