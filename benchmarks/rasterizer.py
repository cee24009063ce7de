"""`python -m benchmarks rasterizer`: the CPU's rasterizer, forward and backward."""

import resource
import statistics
import time
from types import SimpleNamespace

import torch

from errors import require
from representations import RepresentationConfig
from representations.bezier import Bezier
from representations.rasterizer import rasterize

# (particles, Gaussians, side). After the first: twice the particles, twice the Gaussians on the same area, four
# times the pixels of the same scene, larger scenes, and the default of --rep.kind gaussian2d at 512×512.
SIZES = [(4, 1000, 64), (8, 1000, 64), (4, 2000, 64), (4, 1000, 128), (1, 10_000, 512), (1, 50_000, 512)]
SIZES += [(1, 32_768, 512)]
STROKES = [(4, 64, 64), (1, 256, 512)]


class Rows:
    """Particles without a prior."""

    source_mask, device = None, torch.device("cpu")

    def __init__(self, count):
        self.count, self.generator = count, torch.Generator().manual_seed(0)

    def __len__(self):
        return self.count

    def rand(self, *shape):
        return torch.rand(self.count, *shape, generator=self.generator)


def gaussian_scene(batch: int, count: int, side: int) -> list[torch.Tensor]:
    """Random Gaussians, about one spacing wide: each pixel is within one standard deviation of about three.

    → centers (B, N, 2), scales (B, N, 2), angles (B, N), colors (B, N, 3), opacities (B, N)
    """
    generator = torch.Generator().manual_seed(0)
    centers, scales, angles, colors, opacities = (
        torch.rand((batch, count, *shape), generator=generator) for shape in ((2,), (2,), (), (3,), ())
    )
    scene = (centers * side, side * count**-0.5 * (0.5 + scales), 3 * angles, colors, opacities)
    return [value.requires_grad_(True) for value in scene]


def stroke_scene(batch: int, count: int, side: int) -> list[torch.Tensor]:
    """The Gaussians of the strokes that --rep.kind bezier starts from."""
    config = RepresentationConfig(kind="bezier", init="constant", init_color=(0.5, 0.5, 0.5), num_strokes=count)
    canvas = SimpleNamespace(image_size=(side, side), device=Rows.device)
    *gaussians, _ = Bezier(config, canvas, Rows(batch)).gaussians()
    return [value.detach().requires_grad_(True) for value in gaussians]


def rendering_seconds(scene: list[torch.Tensor], side: int, rounds: int) -> float:
    """Median time of forward plus backward."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        image = rasterize(*scene, torch.ones(3), (side, side))
        image.backward(torch.ones_like(image))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main(arguments: list[str]) -> None:
    require(not arguments, f"rasterizer takes no flags: {' '.join(arguments)}")
    rendering_seconds(gaussian_scene(1, 10, 16), 16, 1)  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("| particles | Gaussians | canvas | ms | memory so far, MB |\n| --- | --- | --- | --- | --- |")
    sizes = [(gaussian_scene, "", *size) for size in SIZES] + [(stroke_scene, " strokes", *size) for size in STROKES]
    for scene, what, particles, count, side in sizes:
        seconds = rendering_seconds(scene(particles, count, side), side, 30 if side < 512 else 7)
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"| {particles} | {count}{what} | {side}×{side} | {1e3 * seconds:.1f} | {memory:.0f} |", flush=True)
