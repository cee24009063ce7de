"""The figure of several runs: rows and columns of pictures, labelled at the left and on top with the settings that
differ."""

import math
from dataclasses import dataclass

from PIL import Image

from recording.pictures import font, wrap

GAP, INNER, LINE = 12, 2, 20  # in pixels: between cells, between pictures in a cell, height of a text line
DPI, SIZE = 100, 10  # of the figure, and font size in points
GREY, PALE = "#6e6e6e", "#e9e9e9"


@dataclass
class Axis:
    name: str
    texts: list[str]


Content = Image.Image | list[str]  # of a cell: a run's pictures, from content(), or texts if it has none


def draw(rows: Axis, columns: Axis, tables: list[str], cells: dict[tuple[int, int, int], Content], tile: int):
    """→ a matplotlib Figure with one unit per pixel, so that pictures stay sharp.

    tables  titles, one per table of rows × columns
    cells   {(table, row, column) as indices: Content}
    tile    approximate width of a picture
    """
    from matplotlib.figure import Figure  # takes a second to import

    sizes = [part.size for part in cells.values() if isinstance(part, Image.Image)] or [(tile, tile)]
    side, height = (max(each) for each in zip(*sizes, strict=True))
    width = max(side, 100)
    heads = [wrap(text, width, 4) for text in columns.texts]
    labels = [wrap(text, 200, max(1, height // LINE)) for text in rows.texts]
    left = 3 * GAP + LINE + max(measure(line) for label in labels for line in label)
    top = LINE * (any(map(bool, tables)) + 2 + max(map(len, heads)))
    table_width = left + max(len(heads) * (width + GAP), measure(columns.name) + GAP)
    table_height = top + max(len(labels) * (height + GAP), measure(rows.name) + GAP)
    figure = Figure(figsize=(table_width / DPI, len(tables) * table_height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))

    def write(x, y, lines, **style):
        axes.text(x, y, "\n".join(lines), **{"size": SIZE, "va": "center", "parse_math": False} | style)

    for number, name in enumerate(tables):
        y = number * table_height
        write(GAP, y + LINE, wrap(name, table_width - 2 * GAP, 1), size=SIZE + 2)
        y += top
        write(left, y - top + LINE * (1 + any(map(bool, tables))), [columns.name], color=GREY)
        write(GAP + LINE / 2, y, [rows.name], color=GREY, rotation=90, ha="center", va="top")
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
