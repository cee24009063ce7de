"""Runs side by side on one page: a common slider, curves over each other, and the settings that they differ in.

    python compare.py outputs/FIRST outputs/SECOND
    python compare.py outputs/FIRST outputs/SECOND --labels "as it was" "with my change" --out outputs/comparison

A folder is one that sds2d.py or sweep.py has made.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from config.command_line import read_options
from config.files import load
from config.settings import flag
from errors import InputError, explain
from priors.checkpoint import user_path
from recording.comparison import comparison, results
from recording.folder import write_text
from recording.page import template


@dataclass
class Options:
    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of runs, two or more."""
    labels: tuple[str, ...] = ()
    """What the page calls them, one a run. None: the names of their folders."""
    out: str | None = None
    """Folder of the page, which must not exist. None: outputs/<time>-comparison."""


def main():
    try:
        options, rest = read_options(Options, sys.argv[1:], __doc__)
        folders = [user_path(run) for run in options.runs]
        if rest or len(folders) < 2:
            raise InputError(f"{' '.join(rest) or 'two or more folders of runs are needed'}: --help lists the flags")
        for folder in folders:
            if not (folder / "config.yaml").is_file():
                raise InputError(f"{folder} is no folder of a run: it has no config.yaml")
        labels = options.labels or unique_names(folders)
        if len(labels) != len(folders) or len(set(labels)) < len(labels):
            raise InputError(f"--labels: {len(folders)} different ones are needed, one a run")
        out = user_path(options.out or f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-comparison")
        if os.path.lexists(out):
            raise InputError(f"--out {out} exists; name another folder")
        runs = dict(zip(labels, folders, strict=True))
        parts = {"data": comparison(runs, out / "index.html"), "settings": differences(runs), "results": results(runs)}
        text = template("comparison.html").render(labels=labels, **parts)
        out.mkdir(parents=True)
        write_text(out / "index.html", text)
        print(out / "index.html")
    except (InputError, OSError, KeyboardInterrupt) as error:
        code, line = explain(error)
        print(f"compare.py: {line}", file=sys.stderr)
        sys.exit(code)


def differences(runs: dict[str, Path]) -> dict[str, list[Any]]:
    """{flag: its value in each run} of the settings that are not the same in all."""
    settings = [load(folder / "config.yaml") for folder in runs.values()]
    names = dict.fromkeys(name for each in settings for name in each if name not in ("command", "environment"))
    values = {flag(name): [each.get(name) for each in settings] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def unique_names(folders: list[Path]) -> list[str]:
    """The folders' names; with those above them where two are alike."""
    names = [folder.absolute().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


if __name__ == "__main__":
    main()
