"""config.yaml: the whole resolved configuration of a run, and what it was made with. Anybody may have written what is read."""

import json
from dataclasses import asdict

from errors import InputError
from settings.config import Config
from settings.flags import as_flags, flatten, read

LARGEST = 2**22  # bytes; one of ours has a few thousand, and as much as its prompts


def dump(config, made_with):
    """A Config and {name: value} as the text of config.yaml."""
    import yaml

    # A round trip through JSON turns tuples into the lists that YAML has.
    settings = json.loads(json.dumps({**asdict(config), "made_with": made_with}))
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def load(file):
    """config.yaml → (its Config, what it was made with). Raises InputError for a file that is no such configuration."""
    import yaml

    class Plain(yaml.SafeLoader):
        """No references: a few lines of them could stand for more than fits into memory."""

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it holds references (*name)")
            return super().compose_node(parent, index)

    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is no file")
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        content = yaml.load(file.read_text(encoding="utf-8"), Plain)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise InputError(f"{file} can not be read as the configuration of a run ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no settings: the config.yaml of a run is needed")
    made_with = content.pop("made_with", None)
    values = dict(named(content))
    missing = [name for name in flatten(Config()) if name not in values]
    try:
        if missing:
            raise InputError(f"{missing[0]} is missing")
        for name, value in values.items():
            if not all(
                isinstance(part, str | int | float | None) for part in (value if isinstance(value, list) else [value])
            ):
                raise InputError(f"{name} should be a number, a text, or a list of such")
            if isinstance(value, list) and any(isinstance(part, str) and part.startswith("-") for part in value[1:]):
                raise InputError(f"{name}: of a list only the first may begin with -")
        json.dumps(made_with)
        config = read(as_flags(values), Config)
    except (InputError, TypeError) as error:
        raise InputError(f"{file}: {error}") from error
    return config, made_with if isinstance(made_with, dict) else {}


def named(content, prefix=""):
    """Nested mappings as (name, value) pairs: ("algo.guidance_scale", 7.5), …"""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from named(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
