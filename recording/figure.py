"""The figure of several runs: rows and columns of pictures, labelled at the left and on top with the settings that
differ."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.numpy import load_file

from errors import InputError
from recording.page import FINISHED
from recording.pictures import font, wrap

GAP, INNER, LINE = 12, 2, 20  # in pixels: between cells, between pictures in a cell, height of a text line
DPI, SIZE = 100, 10  # of the figure, and font size in points
GREY, PALE = "#6e6e6e", "#e9e9e9"


MOMENTS = "moments"  # the columns that are steps of each run
Content = Image.Image | list[str]  # of a cell: a run's pictures or, if it has none, texts


def title(values: Iterable[tuple[str, str]]) -> str:
    """Settings and their values, as the figure and the page name a run."""
    return "   ".join(f"{name} {text}" for name, text in values)


def axes(rows: str | None, columns: str | None, swept: dict[str, list[str]]) -> tuple[str, str, list[str]]:
    """--rows and --columns of a sweep {setting: values} → the settings for the rows and the columns (or MOMENTS for the
    latter), and the other swept ones. Raises InputError."""
    asked = f"--rows {rows} --columns {columns}"
    given = [name and name.lstrip("-").replace("_", "-") for name in (rows, columns)]
    free = [name for name in swept if name not in given]
    rows = given[0] or (free.pop(0) if free else "")
    columns = given[1] or (free.pop(0) if free else MOMENTS)
    if rows == columns or rows not in swept or columns not in (*swept, MOMENTS):
        raise InputError(f"{asked}: choose two different swept flags ({', '.join(swept)}) or --columns moments")
    return rows, columns, free


def figure(
    runs: list,
    results: list[dict[str, Any]],
    axes: tuple[str, str, list[str]],
    names: dict[str, str],
    most: int,
    tile: int,
):
    """→ a matplotlib Figure of rows and columns, with a table for each combination of the other settings.

    runs     each with `values`, {setting: text}, its `folder`, and its `settings`, {dotted name: value}
    results  read_run() of each
    axes     from axes()
    names    {setting or value: what to write instead}
    most     particles of a prompt
    tile     approximate width of a picture
    """
    rows, columns, others = axes
    texts = {name: list(dict.fromkeys(run.values[name] for run in runs)) for name in runs[0].values}
    # {column label: the moment that it shows; None: the end}
    heads = moment_labels([run.settings for run in runs]) if columns == MOMENTS else dict.fromkeys(texts[columns])
    tables = list(itertools.product(*([(name, text) for text in texts[name]] for name in others)))
    by_values = {frozenset(run.values.items()): (run, result) for run, result in zip(runs, results, strict=True)}
    cells = {}
    for (i, table), (j, row), (k, head) in itertools.product(*map(enumerate, (tables, texts[rows], heads))):
        along = [] if columns == MOMENTS else [(columns, head)]
        run, result = by_values[frozenset([*table, (rows, row), *along])]
        cells[i, j, k] = cell(run.folder, run.settings, result, heads[head], most, tile)

    def named(*words):
        return [names.get(word, word) for word in words]

    titles = [title(named(name, text) for name, text in table) for table in tables]
    row_axis, column_axis = (rows, texts[rows]), ("steps" if columns == MOMENTS else columns, heads)
    axes = [(*named(name), named(*values)) for name, values in (row_axis, column_axis)]
    return draw(*axes, titles, cells, tile)


def moments(settings: dict[str, Any]) -> list[int]:
    """The steps of a run that a figure shows besides the end: the recorded ones closest to each third of the run."""
    recorded = range(0, settings["steps"], settings["log.every"])
    return [min(recorded, key=lambda step: abs(3 * step - part * settings["steps"])) for part in range(3)]


def moment_labels(runs: list[dict[str, Any]]) -> dict[str, int | None]:
    """{label: number of the moment} for runs with these settings: the steps, or fractions if the runs differ in length.
    Moments of a short run may coincide in one column."""
    steps = {(*moments(settings), settings["steps"]) for settings in runs}
    labels = map(str, steps.pop()) if len(steps) == 1 else ["start", "33 %", "67 %", "end"]
    return dict(zip(labels, [0, 1, 2, None], strict=True))


def cell(folder: Path, settings: dict, result: dict, moment: int | None, most: int, tile: int) -> Content:
    """What the figure shows of a run at a moment (None: the end): its pictures or, without any, its status."""
    particles, prompts, pictures = settings["particles"], len(settings["prompt"]), []
    file = folder / "images" / f"step_{moments(settings)[moment or 0]:06d}.safetensors"
    if moment is None and result["status"] == FINISHED:
        files = [folder / f"final_{index:02d}.png" for index in range(prompts * particles)]
        pictures = [Image.open(file).convert("RGB") for file in files]
    elif moment is not None and file.is_file():
        pictures = [Image.fromarray(array) for array in load_file(file)["images"]]
    if not pictures:
        return [result["status"], result["error"] or ""]
    return content([pictures[prompt * particles :][: min(most, particles)] for prompt in range(prompts)], tile)


Axis = tuple[str, list[str]]  # a setting and its values, as they are written


def draw(rows: Axis, columns: Axis, tables: list[str], cells: dict[tuple[int, int, int], Content], tile: int):
    """→ a matplotlib Figure with one unit per pixel, so that pictures stay sharp.

    tables  titles, one per table of rows × columns
    cells   {(table, row, column) as indices: Content}
    tile    approximate width of a picture
    """
    from matplotlib.figure import Figure  # takes a second to import

    (row_name, row_texts), (column_name, column_texts) = rows, columns
    sizes = [part.size for part in cells.values() if isinstance(part, Image.Image)] or [(tile, tile)]
    side, height = (max(each) for each in zip(*sizes, strict=True))
    width = max(side, 100)
    heads = [wrap(text, width, 4) for text in column_texts]
    labels = [wrap(text, 200, max(1, height // LINE)) for text in row_texts]
    left = 3 * GAP + LINE + max(measure(line) for label in labels for line in label)
    top = LINE * (any(map(bool, tables)) + 2 + max(map(len, heads)))
    table_width = left + max(len(heads) * (width + GAP), measure(column_name) + GAP)
    table_height = top + max(len(labels) * (height + GAP), measure(row_name) + GAP)
    figure = Figure(figsize=(table_width / DPI, len(tables) * table_height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))

    def write(x, y, lines, **style):
        axes.text(x, y, "\n".join(lines), **{"size": SIZE, "va": "center", "parse_math": False} | style)

    for number, name in enumerate(tables):
        y = number * table_height
        write(GAP, y + LINE, wrap(name, table_width - 2 * GAP, 1), size=SIZE + 2)
        y += top
        write(left, y - top + LINE * (1 + any(map(bool, tables))), [column_name], color=GREY)
        write(GAP + LINE / 2, y, [row_name], color=GREY, rotation=90, ha="center", va="top")
        for column, head in enumerate(heads):
            write(left + column * (width + GAP) + width / 2, y - 4, head, ha="center", va="bottom")
        for row, label in enumerate(labels):
            write(left - 10, y + row * (height + GAP) + height / 2, label, ha="right")
    for (number, row, column), part in cells.items():
        x, y = left + column * (width + GAP) + (width - side) // 2, number * table_height + top + row * (height + GAP)
        if isinstance(part, Image.Image):
            x += (side - part.width) // 2
            extent = (x, x + part.width, y + part.height, y)
            axes.imshow(part, extent=extent, aspect="auto", interpolation="none")
        else:
            axes.fill([x, x + side, x + side, x], [y, y, y + height, y + height], PALE)
            lines = [short for line in part for short in wrap(line, side - 8, max(1, height // LINE - 1))]
            write(x + side / 2, y + height / 2, lines, ha="center", size=SIZE - 1)
    axes.set(xlim=(0, table_width), ylim=(len(tables) * table_height, 0))
    axes.axis("off")
    return figure


def content(rows: list[list[Image.Image]], tile: int) -> Image.Image:
    """A run's pictures, one list per prompt, as one image. Those of a single prompt form a square; several prompts get
    one line each. tile: approximate width of each picture, which is scaled by an integer factor."""
    pictures = [sharp(picture, tile) for row in rows for picture in row]
    columns = math.ceil(math.sqrt(len(pictures))) if len(rows) == 1 else len(rows[0])
    width, height = (side + INNER for side in pictures[0].size)
    lines = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width - INNER, lines * height - INNER), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


def sharp(picture: Image.Image, tile: int) -> Image.Image:
    """The picture at about `tile` pixels wide, enlarged by nearest neighbour or reduced by averaging squares."""
    if picture.width >= 2 * tile:
        return picture.reduce(picture.width // tile)
    factor = max(1, round(tile / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def measure(text: str) -> int:
    """The width of a line of text in pixels."""
    return math.ceil(font().getlength(text))
