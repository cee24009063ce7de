"""Tensors as images: labelled grids and heat maps."""

import functools
import math
import textwrap
from pathlib import Path

import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from recording.folder import write_atomic
from representations.heat_map import heat_map

MOST = 2**27  # pixels of a grid's pictures


def to_pillow(image: torch.Tensor) -> Image.Image:
    """(3, H, W) float → image, as to_pixels."""
    return Image.fromarray(to_pixels(image).numpy())


def to_pixels(image: torch.Tensor) -> torch.Tensor:
    """(3, H, W) float → (H, W, 3) uint8 on the CPU. Values are clamped to [0, 1]; pixels that are not finite become
    magenta."""
    magenta = torch.tensor([1.0, 0.0, 1.0], device=image.device).to(image).view(3, 1, 1)
    image = torch.where(image.isfinite().all(0), image, magenta)
    return (image.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu()


def save_sheet(path: Path, sheet: Image.Image) -> None:
    """Saves an image as PNG, compressed a little only, since the run waits for this."""
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, lambda part: sheet.save(part, compress_level=1))


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which ships with matplotlib. Unlike Pillow's own font, it has arrows, math symbols and many
    scripts."""
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 14)


def wrap(text: str, width: int, most: int = 3) -> list[str]:
    """The text in at most `most` lines of at most `width` pixels each; the rest is cut off."""
    text = " ".join(text.split())[: most * width]  # No character is narrower than a pixel.
    lines, letters = [text], int(width * len(text) / max(1, font().getlength(text))) + 2
    while letters > 1 and max(map(font().getlength, lines)) > width:
        letters -= 1
        lines = textwrap.wrap(text, letters, max_lines=most, placeholder="…")
    return lines


def grid(images: torch.Tensor, labels: list[str], columns: int, tile: int, smooth: bool = True) -> Image.Image:
    """Rows of `columns` images (B, 3, H, W), with a label above each row.

    tile: minimum width of each image, which is enlarged by an integer factor; smooth: whether to interpolate.
    The grid's height and width are even, as video needs. Images shrink if it would have more than MOST pixels.
    """
    gap, factor = 8, max(1, -(-tile // images.shape[-1]))
    factor = min(factor, math.sqrt(MOST / images[:, 0].numel()))
    height, width = (max(1, int(factor * side)) for side in images.shape[-2:])
    lines = [wrap(label, columns * (width + gap) - gap) for label in labels]
    line = 9 + 17 * max(map(len, lines), default=1)  # the height of a label
    sheet_size = (columns * (width + gap) + gap, len(images) // columns * (height + gap + line))
    sheet = Image.new("RGB", tuple(side + side % 2 for side in sheet_size), "white")
    draw = ImageDraw.Draw(sheet)
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    for row in range(len(images) // columns):
        top = row * (height + gap + line)
        for number, text in enumerate(lines[row]):
            draw.text((gap, top + 5 + 17 * number), text, fill="black", font=font())
        for column in range(columns):
            picture = to_pillow(images[row * columns + column]).resize((width, height), resampling)
            sheet.paste(picture, (gap + column * (width + gap), top + line))
    return sheet


def heat_grid(
    values: torch.Tensor, labels: list[str], columns: int, tile: int, largest: float | None = None, log: bool = False
) -> Image.Image:
    """Values (B, h, w) ≥ 0 as a grid of heat maps on one colour scale, with a colour bar on the right.

    largest: the end of the scale; None: the maximum. log: a logarithmic scale over three decades.
    """
    end = values.max().item() if largest is None else largest
    shown = 1 + (values / max(end, 1e-30)).clamp(min=1e-9).log10() / 3 if log else values / max(end, 1e-30)
    sheet = grid(heat_map(shown, 1.0), labels, columns, tile, smooth=False)
    width, room, top = 16, 104, 26  # The bar starts below a label of one line.
    height = min(sheet.height - 8 - top, 3 * tile)
    whole = Image.new("RGB", (sheet.width + room, sheet.height), "white")
    whole.paste(sheet)
    ramp = heat_map(torch.linspace(1, 0, height).view(1, height, 1).expand(1, height, width), 1.0)[0]
    whole.paste(to_pillow(ramp), (sheet.width, top))
    draw = ImageDraw.Draw(whole)
    for part in (0.0, 0.5, 1.0):
        y = top + round((1 - part) * (height - 1))
        draw.line([(sheet.width + width, y), (sheet.width + width + 4, y)], fill="black")
        text = f"{end * (10 ** (3 * part - 3) if log else part):.3g}"
        text = f"≥ {text}" if part == 1 and values.max() > end else text
        draw.text((sheet.width + width + 8, y), text, fill="black", font=font(), anchor="lm")
    return whole
