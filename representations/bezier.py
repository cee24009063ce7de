"""Cubic Bézier strokes or filled shapes, drawn with Gaussians sampled along them: Liu et al. 2025, Bézier Splatting
(arXiv 2503.16424). Saved as SVG."""

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import PositiveInt

from priors.settings import Fraction, NonNegative, when
from representations.curves import SPREAD, axes, crossing, surface
from representations.paint import GroupRate, PaintSettings, start_colors
from representations.representation import Representation, clamp_colors


@dataclass
class BezierSettings(PaintSettings):
    num_strokes: PositiveInt | None = None
    """Strokes per particle. None: four times the cube root of the number of pixels, 64 at 64×64, 256 at 512×512."""
    closed: bool = False
    """Filled shapes between two curves instead of strokes."""
    samples_along: PositiveInt = 16
    """Gaussians along each curve."""
    samples_across: PositiveInt | None = None
    """Gaussians across each curve; more make sharper edges. None: 4, or 12 for shapes."""
    min_width: Annotated[Fraction, when(closed=False)] = 0.02
    """Least width of a stroke, in units of √HW."""
    max_width: Annotated[Fraction, when(closed=False)] = 0.1
    """Greatest width of a stroke, likewise. Wide strokes overlap themselves at bends, which SVG strokes do not show."""
    crossing_weight: NonNegative = 0.0
    """Weight of a penalty on curves that cross themselves: the Xing loss of Ma et al. 2022, LIVE (arXiv 2206.04655)."""
    point_lr: GroupRate = 0.01
    """Learning rate of the control points, in widths and heights of the canvas."""
    width_lr: Annotated[GroupRate, when(closed=False)] = 0.005
    """Learning rate of the strokes' widths, in units of √HW."""


class Bezier(Representation):
    """B × K curves. Parameters, and the maps that keep them valid:

    point (B, K, 4, 2)    control points, x and y in widths and heights of the canvas, unconstrained. A shape has six:
                          its second curve goes back from the fourth point to the first, with two more inner points
    width (B, K)          of a stroke, in units of √HW; projected onto [min_width, max_width]
    color (B, K, 3)       red, green, blue; projected onto [0, 1]
    opacity (B, K)        sigmoid → (0, 1), of each of its Gaussians
    ground (B, 1, 3)      colour of the canvas, learned like the others

    Stroke 0 is in front. A stroke is the surface S(t, u) = C(t) + (u - ½) w n(t), a shape S(t, u) = (1 - u) C₁(t) +
    u C₂(t), both over the unit square. Its Gaussians lie on a grid of (t, u), and their axes come from the Jacobian of
    S, so that they overlap evenly along the curve.
    """

    Settings = BezierSettings
    titles = {"paths": "The curves and their control points"}

    def __init__(self, config, prior, particles):
        self.config, self.prior, (H, W) = config, prior, prior.image_size
        self.samples = config.samples_along, config.samples_across or (12 if config.closed else 4)
        self.size, self.side = torch.tensor([W, H], device=prior.device), (H * W) ** 0.5
        count = config.num_strokes or round(4 * (H * W) ** (1 / 3))
        spacing = count**-0.5
        points = start_points(count, spacing, config.closed, particles)
        ground = torch.tensor(config.background, device=prior.device).expand(len(particles), 1, 3)
        colors, pictures = start_colors(config, prior, particles, points.mean(2))
        start = {
            "point": points,
            "width": torch.full_like(points[:, :, 0, 0], spacing).clamp(config.min_width, config.max_width),
            "color": colors.float().clamp(0, 1),
            "opacity": torch.zeros_like(points[:, :, 0, 0]),
            "ground": ground,
        }
        if config.closed:
            del start["width"]
        self.groups = {name: torch.nn.Parameter(value.float().contiguous()) for name, value in start.items()}
        if config.init in ("image", "source"):
            self.fit(pictures)
        self.mask = particles.source_mask

    def rate(self, name):
        return self.config.color_lr if name == "ground" else super().rate(name)

    def gaussians(self, rows=slice(None)):
        """The arguments of rasterize(): centers and scales in pixels, angles, colors, opacities of K · along · across
        Gaussians, and the background (B, 3)."""
        from representations.gaussian_kernels import LOW_PASS

        group = {name: value[rows] for name, value in self.groups.items()}
        if self.config.crossing_weight and group["point"].requires_grad:
            own = self.config.crossing_weight * self.crossing_gradient(group["point"].detach())
            group["point"].register_hook(lambda gradient: gradient + own)
        widths = None if self.config.closed else group["width"] * self.side
        centers, jacobians = surface(group["point"] * self.size, widths, *self.samples)
        scales, angles = axes(jacobians)
        scales = SPREAD * scales
        # Compensates for the rasterizer's low-pass, which widens every Gaussian and would make thin strokes too strong.
        area = scales.prod(-1) / (scales.square() + LOW_PASS).prod(-1).sqrt()
        colors = group["color"][:, :, None].expand(centers.shape[:-1] + (3,))
        opacities = group["opacity"].sigmoid()[:, :, None] * area
        flat = (value.flatten(1, 2) for value in (centers, scales, angles, colors, opacities))
        return *flat, group["ground"][:, 0]

    def images(self, rows=slice(None)):
        """(B, 3, H, W) in [0, 1], differentiable."""
        from representations.rasterizer import rasterize

        return self.masked(rasterize(*self.gaussians(rows), self.prior.image_size), rows)

    def project(self):
        """Projects colours and widths back into their ranges after an optimiser step."""
        clamp_colors(self.groups["color"].data)
        clamp_colors(self.groups["ground"].data)
        if "width" in self.groups:
            width = self.groups["width"].data
            limited = width.clamp(self.config.min_width, self.config.max_width)
            width.copy_(limited.where(width.isfinite(), float("nan")))

    def crossing_gradient(self, points):
        """∂/∂points of the penalty, which is added to the gradient of the picture."""
        with torch.enable_grad():
            points.requires_grad_()
            (gradient,) = torch.autograd.grad(crossing(points * self.size / self.side), points)
        return gradient

    def views(self, images):
        """The curves and their control points over the picture."""
        from representations.bezier_views import paths

        return {"paths": (paths(images, self.groups["point"] * self.size, self.groups["color"]), "")}

    def files(self):
        """The curves of each particle: strokes_00.svg …."""
        from representations.bezier_views import solid, write_svg

        with torch.no_grad():
            points, ground = (self.groups["point"] * self.size).cpu(), self.groups["ground"][:, 0].cpu()
            widths = None if self.config.closed else (self.groups["width"] * self.side).cpu()
            _, scales, _, colors, alphas, _ = (value.cpu() for value in self.gaussians())
        count, (along, across) = points.shape[1], self.samples
        scales, alphas = (value.unflatten(1, (count, along * across)) for value in (scales, alphas))
        opacities, edges = solid(scales, alphas, surface(points, widths, along, across)[1])

        def write(path, row):
            width = None if widths is None else widths[row]
            fills = colors[row, :: along * across], opacities[row], edges[row], ground[row]
            write_svg(path, points[row], width, *fills, self.prior.image_size)

        return {f"strokes_{row:02d}.svg": functools.partial(write, row=row) for row in range(len(points))}


def start_points(count: int, spacing: float, closed: bool, particles) -> torch.Tensor:
    """Control points (B, count, 4 or 6, 2) of curves anywhere on the canvas, about two spacings long: straight strokes
    in any direction, or lens shapes."""
    middle = particles.rand(count, 1, 2)
    angle = 2 * math.pi * particles.rand(count, 1)
    along = torch.stack([angle.cos(), angle.sin()], -1) * spacing  # (B, K, 1, 2)
    across = torch.stack([-angle.sin(), angle.cos()], -1) * spacing
    steps = middle.new_tensor([-1, -1 / 3, 1 / 3, 1, 1 / 3, -1 / 3]).view(6, 1)
    sides = middle.new_tensor([0, 1, 1, 0, -1, -1]).view(6, 1)
    return middle + along * steps + across * sides if closed else middle + along * steps[:4]
