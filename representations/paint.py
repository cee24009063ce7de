"""Settings and start colours for representations with groups of parameters: Gaussians, strokes, fields."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from priors.settings import Fraction, NonNegative, when
from representations.start import start_images

GroupRate = Annotated[NonNegative, Field(lt=1e30)]


@dataclass
class FitSettings:
    fit_steps: Annotated[PositiveInt | None, when(init=["image", "source"])] = None
    """Optimiser steps that fit the parameters to the pictures of --rep.init image or source. None: 500."""


@dataclass
class PaintSettings(FitSettings):
    background: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    """Red, green and blue in [0, 1] of the canvas behind Gaussians, or behind strokes at the start."""
    color_lr: GroupRate = 0.02
    """Learning rate of the colours. --rep.lr multiplies this and the rates of the other groups."""
    opacity_lr: GroupRate = 0.05
    """Learning rate of the opacities' logits."""


def start_colors(config, prior, particles, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Positions (B, N, 2), x and y in widths and heights of the canvas → their colours (B, N, 3) according to
    --rep.init, and the pictures (B, 3, H, W) that these come from. Noise: random colours around grey, and None."""
    if config.init == "noise":
        return 0.5 + 0.25 * config.init_std * particles.randn(places.shape[1], 3), None
    pictures = start_images(config, prior, particles)
    size = places.new_tensor([pictures.shape[-1], pictures.shape[-2]])
    pixels = (places * size).clamp(min=0).minimum(size - 1).long()
    colors = [picture[:, at[:, 1], at[:, 0]].T for picture, at in zip(pictures, pixels, strict=True)]
    return torch.stack(colors), pictures
