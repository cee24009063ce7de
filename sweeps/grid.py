"""The grid of a sweep: flags of sds2d.py, any of them with several values, and the runs that they make."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from config import Config, settings_in
from errors import require


@dataclass
class Run:
    """One run. values: {swept setting: text}; config: its resolved Config, without a folder."""

    name: str
    values: dict[str, str]
    arguments: list[str]
    config: Config | None = None


def title(values: Iterable[tuple[str, str]]) -> str:
    """Settings and their values, as the figure and the page name a run."""
    return "   ".join(f"{name} {text}" for name, text in values)


def types(cls: type, prefix: str = "") -> dict[str, Any]:
    """{dotted name: type} of every setting of nested dataclasses."""
    hints = {}
    for name, hint in get_type_hints(cls).items():
        hints |= types(hint, f"{prefix}{name}.") if is_dataclass(hint) else {prefix + name: hint}
    return hints


def read_grid(arguments: list[str]) -> dict[str, dict[str, list[str]]]:
    """{setting, such as algo.name: {value as shown in labels: its arguments on a command line}}.

    Each argument after a flag is a value, also when the flag is repeated. If the flag itself takes several arguments,
    like --prompt, they are one value, and only repeating the flag adds another.
    """
    given, grid, hints = [], {}, types(Config)
    for word in arguments:
        if word.startswith("--"):
            flag, equals, first = word.partition("=")
            given.append((flag, [first] if equals else []))
        else:
            require(given, f"{word!r} must follow a flag (see --help)")
            given[-1][1].append(word)
    for flag, words in given:
        (setting,) = settings_in([flag])  # also schedule.shared_t for --schedule.no-shared-t
        hint = hints.get(setting, tuple)  # sds2d.py refuses unknown flags.
        one_value = tuple in (hint, *map(get_origin, (hint, *get_args(hint)))) or len(words) < 2
        values = grid.setdefault(setting.replace("_", "-"), {})
        for value in [words] if one_value else [[word] for word in words]:
            text = " · ".join(value) or "''"
            if hint is bool:
                text = "no" if "no-" in flag.replace("_", "-") else "yes"
            require(text not in values, f"{flag} {text} is given twice; the values of a sweep must differ")
            dash = value and value[0].startswith("-")  # which would look like a flag
            values[text] = [f"{flag}={value[0]}", *value[1:]] if dash else [flag, *value]
    return grid


def make_runs(grid: dict[str, dict[str, list[str]]]) -> tuple[dict[str, list[str]], list[Run]]:
    """→ ({swept setting: its values' texts}, the runs), with the last swept setting varying fastest."""
    swept = {name: list(values) for name, values in grid.items() if len(values) > 1}
    require(swept, "nothing is swept: give a flag several values, as in --algo.name sds vsd, or use sds2d.py")
    combinations, runs = list(itertools.product(*(values.items() for values in grid.values()))), []
    for index, values in enumerate(combinations):
        texts = {name: text for name, (text, _) in zip(grid, values, strict=True) if name in swept}
        number = str(index).zfill(len(str(len(combinations) - 1)))
        slugs = [re.sub(r"[^a-z0-9.]+", "-", text.lower())[: 60 // len(texts)].strip("-.") for text in texts.values()]
        name = "-".join(filter(None, (number, *slugs)))
        runs.append(Run(name, texts, [word for _, words in values for word in words]))
    return swept, runs
