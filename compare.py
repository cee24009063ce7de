"""Compares runs on one page: a common slider, overlaid curves, and the settings that differ.

    python compare.py outputs/FIRST outputs/SECOND
    python compare.py outputs/FIRST outputs/SECOND --labels "before" "with my change" --out outputs/comparison

Each folder is a run of sds2d.py or sweep.py.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from config import flag, load, read_options
from errors import InputError, explain
from priors.files import user_path
from recording.folder import write_text
from recording.page import comparison, template


@dataclass
class Options:
    runs: tyro.conf.Positional[tuple[str, ...]]
    """Two or more run folders."""
    labels: tuple[str, ...] = ()
    """Names of the runs on the page, one per run. By default, their folder names."""
    out: str | None = None
    """Folder for the page; must not exist yet. None: outputs/<time>-comparison."""


def main():
    try:
        options, rest = read_options(Options, sys.argv[1:], __doc__)
        folders = [user_path(run) for run in options.runs]
        if rest or len(folders) < 2:
            raise InputError(f"{' '.join(rest) or 'too few'}: expected two or more run folders, and flags from --help")
        for folder in folders:
            if not (folder / "config.yaml").is_file():
                raise InputError(f"{folder} is not a run folder: it has no config.yaml")
        labels = options.labels or unique_names(folders)
        if len(labels) != len(folders) or len(set(labels)) < len(labels):
            raise InputError(f"--labels needs {len(folders)} different labels, one per run")
        out = user_path(options.out or f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-comparison")
        if os.path.lexists(out):
            raise InputError(f"--out {out} already exists; choose another folder")
        runs = dict(zip(labels, folders, strict=True))
        data = comparison(runs, out / "index.html")
        text = template("comparison.html").render(labels=labels, data=data, settings=differences(runs))
        out.mkdir(parents=True)
        write_text(out / "index.html", text)
        print(out / "index.html")
    except (InputError, OSError, KeyboardInterrupt) as error:
        code, line = explain(error)
        print(f"compare.py: {line}", file=sys.stderr)
        sys.exit(code)


def differences(runs: dict[str, Path]) -> dict[str, list[Any]]:
    """{flag: its value in each run} for the settings that differ."""
    settings = [load(folder / "config.yaml") for folder in runs.values()]
    names = dict.fromkeys(name for each in settings for name in each if name not in ("command", "quiet"))
    values = {flag(name): [each.get(name) for each in settings] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def unique_names(folders: list[Path]) -> list[str]:
    """The folders' names, or their paths if two names are the same."""
    names = [folder.absolute().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


if __name__ == "__main__":
    main()
