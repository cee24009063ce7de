"""2D Gaussians, each an ellipse with one colour and opacity, drawn front to back: the splatting of Kerbl et al. 2023
(arXiv 2308.04079) on a canvas instead of in a scene."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt

from representations.paint import GroupRate, PaintSettings, start_colors
from representations.representation import Representation, clamp_colors


@dataclass
class GaussianSettings(PaintSettings):
    num_points: PositiveInt | None = None
    """Gaussians per particle. None: one per 8 pixels, so 512 at 64×64 and 32,768 at 512×512."""
    layout: Literal["random", "grid"] = "random"
    """Where they start: at random on the canvas, or on a square grid."""
    center_lr: GroupRate = 0.002
    """Learning rate of the centers, in widths and heights of the canvas."""
    scale_lr: GroupRate = 0.05
    """Learning rate of the scales' logits."""
    angle_lr: GroupRate = 0.05
    """Learning rate of the angles, in radians."""


class Gaussian2D(Representation):
    """B × N Gaussians. Parameters, and the maps that keep them valid:

    center (B, N, 2)      x and y in widths and heights of the canvas, unconstrained; off the canvas they paint nothing
    scale (B, N, 2)       sigmoid → (0, 1), in units of √HW: like exp for small scales, and none outgrows the canvas
    angle (B, N)          radians, unconstrained
    color (B, N, 3)       red, green, blue; projected onto [0, 1] after each step, for the same reason as in Pixel
    opacity (B, N)        sigmoid → (0, 1)

    A Gaussian that leaves the canvas, or whose opacity falls below 1/255, is no longer drawn and gets no gradient.
    None is added or removed. The density view says how many there are.
    """

    Settings = GaussianSettings
    titles = {
        "ellipses": "The Gaussians' outlines at one standard deviation",
        "density": "The density of the Gaussians",
    }

    def __init__(self, config, prior, particles):
        self.config, self.prior, (H, W) = config, prior, prior.image_size
        self.size, self.side = torch.tensor([W, H], device=prior.device), (H * W) ** 0.5
        count = config.num_points or max(1, H * W // 8)
        centers = layout(config.layout, count, particles, W / H)
        spacing = count**-0.5
        colors, pictures = start_colors(config, prior, particles, centers)
        # With standard deviations of one spacing and opacities of ½, Σα is π at each pixel, and a twentieth of the
        # background shows through.
        start = {
            "center": centers,
            "scale": torch.full_like(centers, min(spacing, 0.5)).logit(),
            "angle": particles.rand(count) * math.pi,
            "color": colors.float().clamp(0, 1),
            "opacity": torch.zeros_like(centers[..., 0]),
        }
        self.groups = {name: torch.nn.Parameter(value.float().contiguous()) for name, value in start.items()}
        self.background = torch.tensor(config.background, device=prior.device)
        if config.init in ("image", "source"):
            self.fit(pictures)
        self.mask = particles.source_mask  # Gaussians across its edge change both sides.

    def gaussians(self):
        """The arguments of rasterize(): centers and scales in pixels, angles, colors, opacities."""
        group = self.groups
        return (
            group["center"] * self.size,
            group["scale"].sigmoid() * self.side,
            group["angle"],
            group["color"],
            group["opacity"].sigmoid(),
        )

    def images(self, rows=slice(None)):
        """(B, 3, H, W) in [0, 1], differentiable."""
        from representations.rasterizer import rasterize

        gaussians = (values[rows] for values in self.gaussians())
        return self.masked(rasterize(*gaussians, self.background, self.prior.image_size), rows)

    def project(self):
        """Projects colours back into [0, 1] after an optimiser step."""
        clamp_colors(self.groups["color"].data)

    def views(self, images):
        """The ellipses over the picture, and the density of their centers."""
        from representations.gaussian_views import density, ellipses

        gaussians = self.gaussians()
        return {
            "ellipses": (ellipses(images, *gaussians), ""),
            "density": density(gaussians[0], gaussians[-1], self.prior.image_size),
        }

    def files(self):
        """The Gaussians of each particle, for splat viewers: gaussians_00.ply …."""
        from representations.gaussian_views import write_ply

        particles = zip(*(value.detach().cpu() for value in self.gaussians()), strict=True)
        return {
            f"gaussians_{index:02d}.ply": lambda path, one=one: write_ply(
                path, *one, self.prior.image_size, self.background
            )
            for index, one in enumerate(particles)
        }


def layout(kind, count, particles, aspect):
    """Centers (B, count, 2) in widths and heights of the canvas. aspect: its width over its height."""
    if kind == "random":
        return particles.rand(count, 2)
    columns = math.ceil(math.sqrt(count * aspect))
    rows = math.ceil(count / columns)
    index = torch.arange(count, device=particles.device)
    row, column = index // columns, index % columns
    inside = torch.where(row < rows - 1, columns, count - (rows - 1) * columns)  # the last row may hold fewer
    grid = torch.stack([(column + 0.5) / inside, (row + 0.5) / rows], -1)
    return grid.expand(len(particles), count, 2)
