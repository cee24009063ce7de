"""The command line of a sweep: the flags of sds2d.py, any of them with several values, and the runs that these make."""

import itertools
import re
from dataclasses import dataclass, is_dataclass
from typing import get_args, get_origin, get_type_hints

from errors import InputError
from settings.config import Config
from settings.flags import spell


@dataclass(frozen=True)
class Value:
    """One value of one flag: as a label says it, and as the words that sds2d.py is given."""

    text: str
    words: tuple[str, ...]


@dataclass
class Run:
    """One run of a sweep. values: {flag: text} of the flags that are swept; config: the resolved Config, its `out` aside."""

    index: int
    name: str
    values: dict[str, str]
    arguments: list[str]
    config: Config | None = None


def names(cls, prefix="--"):
    """(flag, type) of every setting in a nested dataclass, named as tyro names them."""
    for name, hint in get_type_hints(cls).items():
        flag = prefix + name.replace("_", "-")
        yield from names(hint, flag + ".") if is_dataclass(hint) else [(flag, hint)]


def takes_several(hint):
    return any(get_origin(part) is tuple for part in (hint, *get_args(hint)))


def split(arguments, own):
    """Command line → (words for the flags in the dataclass `own`, {flag: [Value, …]} for sds2d.py).

    Each word behind a flag is a value of its own, and so are those of a flag that is given again. Where sds2d.py itself takes
    several words (--prompt), they are one value, and only a flag that is given again brings another.
    """
    kinds, mine = dict(names(Config)), {*dict(names(own)), "--help", "-h"}
    negations = {re.sub(r"([\w-]+)$", r"no-\1", flag): flag for flag, hint in kinds.items() if hint is bool}
    groups = []  # [flag, words] in the order of the command line
    for word in arguments:
        if word.startswith("--") or word == "-h":
            flag, equals, first = word.partition("=")
            groups.append((flag.replace("_", "-"), [first] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise InputError(f"{word!r} stands before any flag (--help lists them)")
    options, given = [], {}
    for flag, words in groups:
        if flag in mine:
            options += spell(flag, words)
        elif flag in negations:
            given.setdefault(negations[flag], []).append(Value("no", spell(flag, words)))
        elif kinds.get(flag) is bool:
            given.setdefault(flag, []).append(Value("yes", spell(flag, words)))
        elif flag not in kinds or takes_several(kinds[flag]) or not words:  # sds2d.py says what it does not know.
            given.setdefault(flag, []).append(Value(" · ".join(words) or "''", spell(flag, words)))
        else:
            given.setdefault(flag, []).extend(Value(word or "''", spell(flag, [word])) for word in words)
    for flag, values in given.items():
        for value in values:
            if values.count(value) > 1:
                raise InputError(f"{' '.join(value.words)} is given twice; the values of a sweep differ")
    return options, given


def combine(given):
    """{flag: [Value, …]} → ({swept flag: [text, …]}, [Run, …]), the last of the swept flags varying fastest."""
    swept = {flag: [value.text for value in values] for flag, values in given.items() if len(values) > 1}
    if not swept:
        raise InputError("nothing is swept: give a flag several values, as in --algo.name sds vsd; or use sds2d.py")
    combinations = list(itertools.product(*given.values()))
    runs = []
    for index, values in enumerate(combinations):
        texts = {flag: value.text for flag, value in zip(given, values, strict=True) if flag in swept}
        number = str(index).zfill(len(str(len(combinations) - 1)))
        slugs = [
            re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[: 60 // len(texts)].strip("-.")
            for text in texts.values()
        ]
        name = "-".join(part for part in (number, *slugs) if part)
        runs.append(Run(index, name, texts, [word for value in values for word in value.words]))
    return swept, runs
