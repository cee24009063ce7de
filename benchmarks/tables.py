"""Common flags of the tables, and their output: Markdown, a CSV, a figure, and a part of the docs."""

import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from errors import require
from priors.files import checkpoint_file, digest, locate, user_path
from recording.folder import write_atomic, write_csv, write_text
from recording.scores import Judge
from representations import REPRESENTATIONS

ROOT = Path(__file__).resolve().parent.parent
COLORS = {"latent": "#2b5c8a", "pixel": "#b5532a", "gaussian2d": "#3f8f5b", "bezier": "#2a9d9d", "field": "#a8872a"}


@dataclass
class Options:
    out: str = "outputs/benchmark"
    """Folder of the table and of the pictures, which are made once and kept."""
    workers: PositiveInt = os.cpu_count() or 1
    """Number of processes, each on one core with its own prior."""
    write_docs: bool = False
    """Write the table into docs/BENCHMARKS.md, between its marks."""

    @property
    def folder(self) -> Path:
        return user_path(self.out)


class Truth:
    """Data for a table in a checkpoint's folder: a list of cases, its captions, and a CLIP."""

    def __init__(self, path: str, cases: str):
        """cases: the JSON file of the list."""
        self.folder = Path(locate(path))
        complete = all((self.folder / name).exists() for name in (cases, "captions.json", "clip"))
        require(complete, f"--prior.path {path}: a folder with {cases}, captions.json and clip/ is needed")
        self.cases = json.loads((self.folder / cases).read_text(encoding="utf-8"))
        self.captions, self.sha256 = checkpoint_file(self.folder, "captions.json"), digest(self.folder)
        self.judge = Judge(self.folder / "clip")


def full_rows(rows: Iterable[str], methods: Collection[str]) -> list[str]:
    """Rows "METHOD" or "METHOD KIND" → "METHOD KIND", on latents where none is given. Raises InputError for others."""
    full = [row if " " in row else f"{row} latent" for row in rows]
    known = [f"{method} {kind}" for method in methods for kind in REPRESENTATIONS]
    choices = f"one of {', '.join(methods)} is needed, alone or with one of {', '.join(REPRESENTATIONS)}"
    for row in full:
        require(row in known, f"--rows {row}: {choices}")
    return full


def markdown(table: dict[str, dict], columns: dict[str, tuple[str, str]]) -> str:
    """{row: {column: (number, low, high)}} and {column: (its title, the format of its numbers)} as Markdown."""
    lines = [["", *(title for title, _ in columns.values())], ["---"] * (1 + len(columns))]
    for row, values in table.items():
        lines.append([row, *(number_and_interval(values.get(key), form) for key, (_, form) in columns.items())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number_and_interval(values: tuple[float, float, float] | None, form: str) -> str:
    """(number, low, high) as text. Numbers with a sign are differences, bold if 0 is outside the interval."""
    if values is None:
        return "-"
    number, low, high = (format(value, form) for value in values)
    if not form.startswith("+"):
        return f"{number} ({low}–{high})"
    text = f"{number} ({low} to {high})"
    one_sided = values[1] > 0 or values[2] < 0
    return f"**{text}**" if one_sided else text


def csv_rows(table: dict[str, dict], columns: Iterable[str]) -> list[dict]:
    """One dictionary per row: each column, and the ends of its interval; empty where a row has no such column."""
    rows = []
    for row, values in table.items():
        line = {"row": row}
        for key in columns:
            numbers = [float(f"{value:.6g}") for value in values[key]] if key in values else [None] * 3
            line |= dict(zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True))
        rows.append(line)
    return rows


def report(
    name: str, text: str, options: Any, table: dict | None = None, columns: dict | None = None, figure: tuple = ()
) -> None:
    """Prints the text, and writes it into NAME.md in --out, the table into NAME.csv, and the figure's columns into
    NAME.png. With --write-docs the text replaces that between <!-- NAME --> and <!-- /NAME --> in docs/BENCHMARKS.md,
    and assets/ gets the CSV and the figure.

    Raises InputError if these marks are missing.
    """
    print(text)
    options.folder.mkdir(parents=True, exist_ok=True)
    write_text(options.folder / f"{name}.md", text + "\n")
    for folder in [options.folder, ROOT / "assets"] if options.write_docs else [options.folder]:
        if table:
            write_csv(folder / f"{name}.csv", csv_rows(table, columns))
        if figure:
            write_atomic(folder / f"{name}.png", plot(table, {key: columns[key] for key in figure}).savefig)
    if options.write_docs:
        file = ROOT / "docs" / "BENCHMARKS.md"
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, count = marks.subn(lambda mark: f"{mark[1]}\n{text}\n\n{mark[2]}", file.read_text(encoding="utf-8"))
        require(count == 1, f"{file.name} needs one place marked <!-- {name} --> … <!-- /{name} -->")
        write_text(file, page)


def plot(table: dict[str, dict], columns: dict[str, tuple[str, str]]):
    """One panel per column: each row's number as a point, with its interval."""
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(3 * len(columns) + 1, 0.3 * len(table) + 1), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, (key, (title, form)) in zip(panels, columns.items(), strict=True):
        for y, (row, values) in enumerate(table.items()):
            value, low, high = values[key]
            color = COLORS.get(row.split()[-1], "#7a3e9d")
            axes.errorbar(value, y, xerr=[[max(0, value - low)], [max(0, high - value)]], fmt="o", color=color)
        axes.set(title=title, yticks=range(len(table)), yticklabels=list(table))
        axes.xaxis.set_major_formatter("{x:.0%}" if form.endswith("%") else "{x:g}")
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    return figure
