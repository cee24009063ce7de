"""The grid of a sweep: flags of sds2d.py, any of them with several values, and the runs that these make."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from config.settings import Config, flag
from errors import InputError


@dataclass(frozen=True)
class Value:
    """One value of one flag: as labels show it, and as words of a command line."""

    text: str
    words: tuple[str, ...]


@dataclass
class Run:
    """One run. values: {setting: text} of the swept ones; config: its resolved Config, without a folder."""

    name: str
    values: dict[str, str]
    arguments: list[str]
    config: Config | None = None


def title(values: Iterable[tuple[str, str]]) -> str:
    """Settings and their values, as figure and page name a run."""
    return "   ".join(f"{name} {text}" for name, text in values)


def types(cls: type, prefix: str = "") -> dict[str, Any]:
    """{flag: type} of every setting of nested dataclasses."""
    hints = {}
    for name, hint in get_type_hints(cls).items():
        hints |= types(hint, f"{prefix}{name}.") if is_dataclass(hint) else {flag(prefix + name): hint}
    return hints


def read_grid(arguments: list[str]) -> dict[str, list[Value]]:
    """{flag: its values}. Each word after a flag is a value, and so are those of a flag that is given again. Where
    sds2d.py itself takes several words, as for --prompt, they are one value, and only giving the flag again adds
    another."""
    hints, grid, values = types(Config), {}, []
    takes_several = {name for name, hint in hints.items() if tuple in map(get_origin, (hint, *get_args(hint)))}
    for word in arguments:
        name, equals, first = word.partition("=")
        if word.startswith("--"):
            name = name.replace("_", "-")
            setting = re.sub(r"(--|\.)no-", r"\1", name) if name not in hints else name  # --schedule.no-shared-t
            values = grid.setdefault(setting if hints.get(setting) is bool else name, [])
            values.append((name, [first] if equals else []))
        elif not grid:
            raise InputError(f"{word!r} is given before any flag (--help lists them)")
        elif values[-1][0] in takes_several or values[-1][0] not in hints or not values[-1][1]:
            values[-1][1].append(word)  # sds2d.py refuses flags that it does not know.
        else:
            values.append((values[-1][0], [word]))
    grid = {name: [value(*one, hints.get(name) is bool) for one in values] for name, values in grid.items()}
    for one in (one for values in grid.values() for one in values if values.count(one) > 1):
        raise InputError(f"{' '.join(one.words)} is given twice; the values of a sweep differ")
    return grid


def value(name: str, words: list[str], boolean: bool) -> Value:
    text = ("no" if "no-" in name else "yes") if boolean else " · ".join(words) or "''"
    dash = bool(words) and words[0].startswith("-")  # which would be taken for a flag
    return Value(text, (f"{name}={words[0]}", *words[1:]) if dash else (name, *words))


def make_runs(grid: dict[str, list[Value]]) -> tuple[dict[str, list[str]], list[Run]]:
    """→ ({swept setting, as algo.name: its values' texts}, the runs), the last of the swept ones varying fastest."""
    grid = {name.removeprefix("--"): values for name, values in grid.items()}
    swept = {name: [value.text for value in values] for name, values in grid.items() if len(values) > 1}
    if not swept:
        raise InputError("nothing is swept: give a flag several values, as in --algo.name sds vsd; or use sds2d.py")
    combinations, runs = list(itertools.product(*grid.values())), []
    for index, values in enumerate(combinations):
        texts = {name: value.text for name, value in zip(grid, values, strict=True) if name in swept}
        slugs = [re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[: 60 // len(texts)] for text in texts.values()]
        number = str(index).zfill(len(str(len(combinations) - 1)))
        name = "-".join(part.strip("-.") for part in (number, *slugs) if part.strip("-."))
        runs.append(Run(name, texts, [word for value in values for word in value.words]))
    return swept, runs
