"""The figure of a sweep: rows and columns of pictures, the settings that they differ in written at the left and on
top."""

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

from recording.pictures import font, shorten

GAP, INNER, LINE = 12, 2, 20  # between cells, between the pictures of a cell, from one line of text to the next
BLACK, GREY, PALE = (20, 20, 20), (110, 110, 110), (233, 233, 233)


@dataclass
class Axis:
    name: str
    texts: list[str]


def draw(rows, columns, blocks, cell, tile):
    """The figure, as a Pillow image on white.

    rows, columns  an Axis each
    blocks         texts, one a table of rows × columns, each standing over its own
    cell           cell(block, row, column), indices → a run's picture files, a list a prompt; or texts where there
                   are none. Those of one prompt make a square, those of several a line each.
    tile           about how wide a picture is; it is enlarged or reduced by a whole factor, so that it stays sharp
    """
    cells = [
        [
            [content(cell(block, row, column), tile) for column in range(len(columns.texts))]
            for row in range(len(rows.texts))
        ]
        for block in range(len(blocks))
    ]
    pictures = [part for table in cells for line in table for part in line if isinstance(part, Image.Image)]
    height = max([part.height for part in pictures], default=tile)
    side = max([part.width for part in pictures], default=tile)
    width = max(side, min(150, max(widest_word(text) for text in columns.texts)))
    heads = [wrap(text, width, 4) for text in columns.texts]
    sides = [wrap(text, 200, max(1, height // LINE)) for text in rows.texts]

    left = GAP + LINE + 8 + math.ceil(max(measure(line) for lines in sides for line in lines)) + 10
    head = GAP + LINE + 4 + LINE * max(map(len, heads)) + 4
    title = LINE + 14 if any(blocks) else 0
    table = max(len(rows.texts) * (height + GAP), math.ceil(measure(rows.name)) + GAP)
    block_height = title + head + table
    sheet_width = left + max(len(columns.texts) * (width + GAP), math.ceil(measure(columns.name)) + GAP)
    sheet = Image.new("RGB", (sheet_width, len(blocks) * block_height + (len(blocks) - 1) * GAP), "white")
    ink = ImageDraw.Draw(sheet)
    for b, name in enumerate(blocks):
        top = b * (block_height + GAP)
        if name:
            ink.text((GAP, top + GAP), shorten(name, sheet_width - 2 * GAP), BLACK, font(18))
        top += title
        middle = left + (len(columns.texts) * (width + GAP) - GAP) / 2
        centred(ink, columns.name, max(middle, left + measure(columns.name) / 2), top + GAP, GREY)
        for c, lines in enumerate(heads):
            for i, line in enumerate(lines):
                y = top + head - 4 - LINE * (len(lines) - i)
                centred(ink, line, left + c * (width + GAP) + width / 2, y, BLACK)
        upright(sheet, rows.name, GAP, top + head + max(len(rows.texts) * (height + GAP) - GAP, measure(rows.name)) / 2)
        for r, lines in enumerate(sides):
            y = top + head + r * (height + GAP)
            for i, line in enumerate(lines):
                at = left - 10 - math.ceil(measure(line)), y + (height - LINE * len(lines)) // 2 + LINE * i
                ink.text(at, line, BLACK, font(15))
            for c, part in enumerate(cells[b][r]):
                x = left + c * (width + GAP)
                if isinstance(part, Image.Image):
                    sheet.paste(part, (x + (width - part.width) // 2, y))
                else:
                    x += (width - side) // 2
                    message(ink, part, (x, y, x + side - 1, y + height - 1))
    return sheet


def content(parts, tile):
    """The pictures of a cell as one, or the texts in their place."""
    if isinstance(parts[0], str):
        return parts
    pictures = [sharp(file, tile) for files in parts for file in files]
    columns = math.ceil(math.sqrt(len(pictures))) if len(parts) == 1 else len(parts[0])
    lines = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * (width + INNER) - INNER, lines * (height + INNER) - INNER), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + INNER), i // columns * (height + INNER)))
    return sheet


def sharp(file, tile):
    """The picture about `tile` wide: every pixel a square of pixels, or squares of pixels averaged into one."""
    with Image.open(file) as picture:
        picture = picture.convert("RGB")
    if picture.width >= 2 * tile:
        return picture.reduce(picture.width // tile)
    factor = max(1, round(tile / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def message(ink, texts, box):
    """Texts in place of a picture, on a pale ground: the first as a heading, as much of the others as fits under it."""
    ink.rectangle(box, PALE)
    x0, y0, x1, y1 = box
    heading, *rest = texts
    small = 13
    lines = wrap(" ".join(rest), x1 - x0 - 12, max(0, (y1 - y0 - 40) // 16), small) if rest else []
    y = (y0 + y1 - LINE - 16 * len(lines)) // 2
    centred(ink, heading, (x0 + x1) / 2, y, BLACK if rest else GREY)
    for i, line in enumerate(lines):
        centred(ink, line, (x0 + x1) / 2, y + LINE + 16 * i, GREY, small)


def centred(ink, text, middle, y, colour, size=15):
    """At whole pixels, where letters are sharpest."""
    ink.text((round(middle - measure(text, size) / 2), y), text, colour, font(size))


def upright(sheet, text, x, middle):
    """Text that reads upwards, its middle at the height `middle`."""
    strip = Image.new("RGB", (math.ceil(measure(text)), LINE), "white")
    ImageDraw.Draw(strip).text((0, 1), text, GREY, font(15))
    strip = strip.rotate(90, expand=True)
    sheet.paste(strip, (x, round(middle - strip.height / 2)))


# ------------------------------------------------------------------------------------------------------------ text


def measure(text, size=15):
    return font(size).getlength(text)


def widest_word(text):
    return math.ceil(max((measure(word) for word in text.split()), default=0))


def wrap(text, width, most, size=15):
    """The text in at most `most` lines of at most `width` pixels, words that are longer broken, the end cut off
    with …"""
    lines = [""]
    for word in text.split():
        if lines[-1] and measure(f"{lines[-1]} {word}", size) > width:
            lines.append("")
        joined = f"{lines[-1]} {word}".strip()
        while measure(joined, size) > width and len(joined) > 1:
            fits = next(n for n in range(len(joined) - 1, 0, -1) if n == 1 or measure(joined[:n], size) <= width)
            lines[-1:] = [joined[:fits], ""]
            joined = joined[fits:]
        lines[-1] = joined
    if len(lines) > most:
        lines = lines[:most]
        while lines and lines[-1] and measure(lines[-1] + "…", size) > width:
            lines[-1] = lines[-1][:-1]
        if lines:
            lines[-1] += "…"
    return lines
