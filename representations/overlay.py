"""Outlines of a picture's primitives, over the faded picture."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw


def overlay_factor(images: torch.Tensor, least: int) -> int:
    """The least integer factor that makes images (B, 3, H, W) at least `least` pixels wide."""
    return -(-least // images.shape[-1])


def overlay(images: torch.Tensor, factor: int, draw: Callable[[ImageDraw.ImageDraw, int], None]) -> torch.Tensor:
    """Fades and enlarges images (B, 3, H, W) in [0, 1] and draws over them with draw(canvas, row) →
    (B, 3, H · factor, W · factor)."""
    faded = ((0.4 * images + 0.6).clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
    size, sheets = (images.shape[-1] * factor, images.shape[-2] * factor), []
    for row, picture in enumerate(faded):
        sheet = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
        draw(ImageDraw.Draw(sheet, "RGBA"), row)
        sheets.append(torch.from_numpy(np.asarray(sheet).copy()).movedim(-1, 0).float() / 255)
    return torch.stack(sheets)
