"""Tensors as pictures: grids with labels, heat maps, frames of a video."""

import functools

import torch


def to_pillow(image):
    """(3, H, W) float → Pillow image; what lies outside [0, 1] is shown as 0 or 1, what is not finite as magenta."""
    from PIL import Image

    magenta = torch.tensor([1.0, 0.0, 1.0], device=image.device).to(image).view(3, 1, 1)
    image = torch.where(image.isfinite().all(0), image, magenta)
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy())


# From black over violet, red and orange to pale yellow, each step as much lighter as the last; red, green, blue.
HEAT = ((0, 0, 4), (60, 9, 101), (130, 38, 129), (200, 62, 115), (245, 110, 92), (254, 171, 119), (252, 253, 191))


def heat_map(values, largest):
    """Values (B, H, W) in [0, largest] as colours (B, 3, H, W) in [0, 1]."""
    anchors = torch.tensor(HEAT, device=values.device) / 255
    place = (values / max(largest, 1e-12)).clamp(0, 1) * (len(anchors) - 1)
    below = place.floor().long().clamp(max=len(anchors) - 2)
    fraction = (place - below)[..., None]
    return (anchors[below] * (1 - fraction) + anchors[below + 1] * fraction).movedim(-1, 1)


@functools.cache
def letters(size=15):
    """DejaVu Sans, which matplotlib brings along: it knows arrows, mathematics and many scripts, unlike Pillow's own font."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def shorten(text, font, width):
    """The text in one line of at most `width` pixels, its end cut off where it is longer."""
    line = " ".join(text.split())
    kept = min(len(line), width)  # No letter is narrower than a pixel.
    while kept and font.getlength(line[:kept]) > width:
        kept = kept * 9 // 10
    return line if kept == len(line) else line[: max(0, kept - 1)] + "…"


def video_frame(sheet, largest=4096):
    """The sheet as an array, shrunk where video codecs give up; both sides stay even."""
    import numpy as np

    scale = min(1, largest / max(sheet.size))
    size = tuple(max(2, int(side * scale) // 2 * 2) for side in sheet.size)
    return np.asarray(sheet if size == sheet.size else sheet.resize(size))


def grid(images, labels, columns, tile, smooth=True):
    """One picture of them all: rows of `columns` images (B, 3, H, W), over each row its label.

    tile: least width of one image, which grows by a whole factor; smooth: whether its pixels melt into each other.
    Both sides are even numbers of pixels, as video wants them.
    """
    from PIL import Image, ImageDraw

    gap, line = 8, 26
    height, width = images.shape[-2:]
    factor = max(1, -(-tile // width))
    height, width = height * factor, width * factor
    rows = len(images) // columns
    sheet_size = (columns * (width + gap) + gap, rows * (height + gap + line))
    sheet = Image.new("RGB", tuple(side + side % 2 for side in sheet_size), "white")
    draw = ImageDraw.Draw(sheet)
    font = letters(14)
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    for row in range(rows):
        top = row * (height + gap + line)
        draw.text((gap, top + 5), shorten(labels[row], font, sheet_size[0] - 2 * gap), fill="black", font=font)
        for column in range(columns):
            picture = to_pillow(images[row * columns + column]).resize((width, height), resampling)
            sheet.paste(picture, (gap + column * (width + gap), top + line))
    return sheet


def heat_grid(values, labels, columns, tile):
    """Values (B, h, w) of 0 or more as a grid of heat maps, all on one colour scale, with its bar at the right."""
    from PIL import Image, ImageDraw

    largest = values.max().item()
    sheet = grid(heat_map(values, largest), labels, columns, tile, smooth=False)
    top, width, room = 26, 16, 96  # the bar begins where the first row of pictures does
    height = min(sheet.height - 8 - top, 3 * tile)
    whole = Image.new("RGB", (sheet.width + room, sheet.height), "white")
    whole.paste(sheet)
    ramp = heat_map(torch.linspace(1, 0, height).view(1, height, 1).expand(1, height, width), 1.0)[0]
    whole.paste(to_pillow(ramp), (sheet.width, top))
    draw, font = ImageDraw.Draw(whole), letters(13)
    for part in (0.0, 0.5, 1.0):
        y = top + round((1 - part) * (height - 1))
        draw.line([(sheet.width + width, y), (sheet.width + width + 4, y)], fill="black")
        draw.text((sheet.width + width + 8, y), f"{part * largest:.3g}", fill="black", font=font, anchor="lm")
    return whole
