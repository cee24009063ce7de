"""A table: the flags that all have, and what they write: Markdown, a CSV, a figure, and a part of the docs."""

import csv
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from pydantic import PositiveInt, TypeAdapter, ValidationError

from config import Config, flag, parse
from errors import InputError
from priors.checkpoint import checkpoint_file, digest, locate
from priors.evaluation import Judge
from recording.folder import write_atomic, write_text

ROOT = Path(__file__).resolve().parent.parent
COLORS = {"latent": "#2b5c8a", "pixel": "#b5532a", "gaussian2d": "#3f8f5b"}


@dataclass
class Options:
    out: Path = Path("outputs/benchmark")
    """Folder of the pictures, which are made once and kept, and of the table."""
    workers: PositiveInt = os.cpu_count() or 1
    """Processes, each on one core with a prior of its own."""
    write_docs: bool = False
    """Write the table into docs/BENCHMARKS.md, between its marks."""


def read_options(arguments: list[str], cls: type) -> tuple[Any, Config, list[str]]:
    """Command line → (an instance of the dataclass cls, the Config of the flags of sds2d.py, and these flags)."""
    options, rest = tyro.cli(cls, args=arguments, return_unknown_args=True)
    try:
        options = TypeAdapter(cls).validate_python(asdict(options))
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"{flag(fault['loc'][0])} {fault['input']}: {fault['msg']}") from error
    options.out = options.out.expanduser()
    return options, parse(rest), rest


class Truth:
    """What a checkpoint's folder has for a table beside the prior: a list of cases, its captions, and a CLIP."""

    def __init__(self, path: str, cases: str):
        """cases: the JSON file of the list."""
        self.folder = Path(locate(path))
        if not all((self.folder / name).exists() for name in (cases, "captions.json", "clip")):
            raise InputError(f"--prior.path {path}: a folder with {cases}, captions.json and clip/ is needed")
        self.cases = json.loads((self.folder / cases).read_text(encoding="utf-8"))
        self.captions, self.sha256 = checkpoint_file(self.folder, "captions.json"), digest(self.folder)
        self.judge = Judge(self.folder / "clip")


def markdown(table: dict[str, dict], columns: dict[str, tuple[str, str]]) -> str:
    """{row: {column: (number, low, high)}} and {column: (its title, the format of its numbers)} as Markdown."""
    lines = [["", *(title for title, _ in columns.values())], ["---"] * (1 + len(columns))]
    for row, values in table.items():
        lines.append([row])
        for key, (_, form) in columns.items():
            value = "{} ({}–{})".format(*(format(x, form) for x in values[key])) if key in values else "-"
            lines[-1].append(value)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_csv(path: Path, table: dict[str, dict], columns: dict) -> None:
    """A line a row: each column, and the ends of its interval."""

    def write(part):
        with open(part, "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["row", *(f"{key}{end}" for key in columns for end in ("", "_low", "_high"))])
            for row, values in table.items():
                numbers = [x for key in columns for x in values.get(key, ("", "", ""))]
                lines.writerow([row, *(x if x == "" else f"{x:.6g}" for x in numbers)])

    write_atomic(path, write)


def report(
    name: str, text: str, options: Any, table: dict | None = None, columns: dict | None = None, figure: tuple = ()
) -> None:
    """Prints the text, and writes it into NAME.md in --out, the table into NAME.csv, and the figure's columns into
    NAME.png. With --write-docs the text replaces that between <!-- NAME --> and <!-- /NAME --> in docs/BENCHMARKS.md.

    Raises InputError where these marks are missing.
    """
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / f"{name}.md", text + "\n")
    for folder in (options.out, *([ROOT / "assets"] if options.write_docs else [])):
        if table:
            write_csv(folder / f"{name}.csv", table, columns)
        if figure:
            write_atomic(folder / f"{name}.png", plot(table, {key: columns[key] for key in figure}).savefig)
    if options.write_docs:
        file = ROOT / "docs" / "BENCHMARKS.md"
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, count = marks.subn(lambda mark: f"{mark[1]}\n{text}\n\n{mark[2]}", file.read_text(encoding="utf-8"))
        if count != 1:
            raise InputError(f"{file.name} needs one place marked <!-- {name} --> … <!-- /{name} -->")
        write_text(file, page)


def plot(table: dict[str, dict], columns: dict[str, tuple[str, str]]):
    """A panel a column: each row's number as a point, with its interval."""
    from matplotlib.figure import Figure  # costs a second

    figure = Figure(figsize=(3 * len(columns) + 1, 0.3 * len(table) + 1), dpi=110, layout="constrained")
    for axes, (key, (title, form)) in zip(figure.subplots(1, len(columns), sharey=True), columns.items(), strict=True):
        for y, (row, values) in enumerate(table.items()):
            value, low, high = values[key]
            color = COLORS.get(row.split()[-1], "#7a3e9d")
            axes.errorbar(value, y, xerr=[[max(0, value - low)], [max(0, high - value)]], fmt="o", color=color)
        axes.set(title=title, yticks=range(len(table)), yticklabels=list(table))
        axes.xaxis.set_major_formatter(f"{{x:{'.0%' if form.endswith('%') else 'g'}}}")
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    return figure
