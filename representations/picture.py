"""Pictures drawn from groups of parameters: what Gaussians, strokes and fields share."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from errors import Fraction, NonNegative
from representations.representation import Representation
from representations.start import start_images

GroupRate = Annotated[NonNegative, Field(lt=1e30)]


@dataclass
class FitSettings:
    fit_steps: PositiveInt | None = None
    """Optimiser steps that fit it to the pictures of --rep.init image or source, before the run. None: 500."""


@dataclass
class PaintSettings(FitSettings):
    background: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    """Red, green and blue in [0, 1] of the canvas behind Gaussians, or of that behind strokes at the start."""
    color_lr: GroupRate = 0.02
    """Learning rate of the colours. --rep.lr is a factor on this and on those of the other groups."""
    opacity_lr: GroupRate = 0.05
    """Of the opacities' logits."""


class Picture(Representation):
    """A subclass sets `config`, `prior`, `mask` and `groups` {name: Parameter (B, …)}, and draws `images(rows)`. The
    group `name` has the learning rate config.<name>_lr times --rep.lr.
    """

    learning_rates = {"adam": 1.0, "adamw": 1.0, "sgd": 100.0}

    def parameters(self):
        """The optimizer's groups, without weight decay: a parameter of 0 is a corner of the canvas or an opacity of a
        half, and nothing to be drawn towards."""
        return self.groups_at(self.config.lr)

    def groups_at(self, factor: float) -> list[dict]:
        return [
            {"params": [value], "lr": factor * self.rate(name), "weight_decay": 0.0}
            for name, value in self.groups.items()
        ]

    def rate(self, name: str) -> float:
        return getattr(self.config, f"{name}_lr")

    def images(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        raise NotImplementedError

    def latents(self, rows=slice(None)):
        """(B, C, h, w), differentiable: the mean of the autoencoder's posterior."""
        return self.prior.encode(self.images(rows))

    def masked(self, images: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
        """The images (B, 3, H, W), with no gradient outside of --source-mask."""
        if self.mask is not None and images.requires_grad:
            images.register_hook(lambda gradient: gradient * self.mask[rows].to(gradient))
        return images

    def fit(self, pictures: torch.Tensor) -> None:
        """Fits it to pictures (B, 3, H, W) by least squares, and says how well: a PSNR a particle, in dB."""
        from tqdm import tqdm

        steps = self.config.fit_steps or 500
        optimizer = torch.optim.Adam(self.groups_at(1.0))
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in (bar := tqdm(range(steps), desc="fit", unit="step")):
            errors = (self.images() - pictures).square().mean((1, 2, 3))  # (B,)
            optimizer.zero_grad(set_to_none=True)
            errors.sum().backward()
            optimizer.step()
            decay.step()
            self.project()
            if step % 20 == 0:
                bar.set_postfix(psnr=f"{-10 * errors.detach().mean().log10():.1f} dB", refresh=False)
        with torch.no_grad():
            errors = (self.images() - pictures).square().mean((1, 2, 3))
        print("fitted to", " ".join(f"{-10 * math.log10(max(error, 1e-12)):.1f}" for error in errors.tolist()), "dB")


def start_colors(config, prior, particles, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """--rep.init at places (B, N, 2), x and y in widths and heights of the canvas: colours (B, N, 3), and the pictures
    (B, 3, H, W) that have them; for noise None, and greys with it."""
    if config.init == "noise":
        return 0.5 + 0.25 * config.init_std * particles.randn(places.shape[1], 3), None
    pictures = start_images(config, prior, particles)
    size = places.new_tensor([pictures.shape[-1], pictures.shape[-2]])
    pixels = (places * size).clamp(min=0).minimum(size - 1).long()
    colors = [picture[:, at[:, 1], at[:, 0]].T for picture, at in zip(pictures, pixels, strict=True)]
    return torch.stack(colors), pictures
