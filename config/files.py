"""Reads and writes files of settings and prompts."""

import json
from pathlib import Path
from typing import Any

import yaml

from config.settings import Config, adapter, nested_items
from errors import InputError, first_line, require
from priors.files import user_path


class PlainLoader(yaml.SafeLoader):
    """YAML without references (aliases), a few lines of which can expand to more than fits into memory."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references such as *name are not allowed")
        return super().compose_node(parent, index)


def load(file: str | Path) -> dict[str, Any]:
    """A YAML file of settings, from a run or a user → {dotted name: value}. Raises InputError for anything else."""
    try:
        require(user_path(file).is_file(), "no such file")  # A named pipe would block.
        text = user_path(file).read_text(encoding="utf-8")
        require(len(text) <= 2**22, "it is larger than 4 MB")
        content = yaml.load(text, PlainLoader)
        json.dumps(content)  # refuses dates and other objects
    except Exception as error:  # PyYAML's constructors can raise anything.
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{file} cannot be read as settings ({reason})") from error
    require(isinstance(content, dict), f"{file} has no settings; it needs lines such as `steps: 100`")
    return {name: value for name, value in nested_items(content) if name != "out"}


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
    require(prompts, f"--prompts-file {file} has no prompts; it needs one per line")
    return prompts
