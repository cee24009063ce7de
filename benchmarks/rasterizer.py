"""`python benchmark.py rasterizer`: the CPU's rasterizer, with a dense rendering for comparison."""

import statistics
import time

import torch
import torch.utils.checkpoint

from errors import InputError


def dense_rendering(centers, scales, angles, colors, opacities, background, size, chunk=16):
    """The picture without tiles, kernels or early ends: every Gaussian at every pixel, `chunk` at a time, as memory
    asks for; backward computes each chunk again."""
    from representations.gaussian_kernels import LOW_PASS

    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")

    def layer(light, centers, scales, angles, colors, opacities):
        dx, dy = x - centers[..., :1, None], y - centers[..., 1:, None]  # (B, n, H, W)
        cos, sin = angles.cos()[..., None, None], angles.sin()[..., None, None]
        first, second = (scales**2 + LOW_PASS)[..., None, None].unbind(2)
        sigma = 0.5 * ((cos * dx + sin * dy) ** 2 / first + (cos * dy - sin * dx) ** 2 / second)
        alpha = (opacities[..., None, None] * torch.exp(-sigma)).clamp(max=0.999)
        alpha = torch.where(alpha < 1 / 255, 0, alpha)
        lights = light[:, None] * torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1).cumprod(
            1
        )  # (B, n + 1, H, W)
        return torch.einsum("bnhw,bnc->bchw", alpha * lights[:, :-1], colors), lights[:, -1]

    image, light = torch.zeros(len(centers), 3, *size), torch.ones(len(centers), *size)
    for parts in zip(*(value.split(chunk, 1) for value in (centers, scales, angles, colors, opacities)), strict=True):
        seen, light = torch.utils.checkpoint.checkpoint(layer, light, *parts, use_reentrant=False)
        image = image + seen
    return image + light[:, None] * background.view(1, 3, 1, 1)


def gaussian_scene(batch, count, side):
    """Random Gaussians, about one spacing wide: each pixel lies within a standard deviation of some three."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(shape, generator=generator)

    scales = side * count**-0.5 * (0.5 + uniform(batch, count, 2))
    scene = (
        uniform(batch, count, 2) * side,
        scales,
        uniform(batch, count) * 3,
        uniform(batch, count, 3),
        uniform(batch, count),
    )
    return [value.requires_grad_(True) for value in scene]


def rendering_seconds(renderer, scene, side, rounds):
    """Median of forward and backward."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        image = renderer(*scene, torch.ones(3), (side, side))
        image.backward(torch.ones_like(image))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main(arguments):
    """Forward and backward of the CPU's rasterizer, the growth of the process's memory, and a dense rendering."""
    import resource

    from representations.rasterizer import rasterize

    if arguments:
        raise InputError(f"rasterizer takes no flags: {' '.join(arguments)}")

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    # After the first, in turn: twice the particles, twice the Gaussians on the same area, four times the pixels of
    # the same scene.
    sizes = [(4, 1000, 64), (8, 1000, 64), (4, 2000, 64), (4, 1000, 128), (1, 10_000, 512), (1, 50_000, 512)]
    rendering_seconds(rasterize, gaussian_scene(1, 10, 16), 16, 1)  # compiles
    print("| particles | Gaussians | canvas | ms | memory so far, MB |\n| --- | --- | --- | --- | --- |")
    before, ours = peak(), {}
    for size in sizes:
        ours[size] = rendering_seconds(rasterize, gaussian_scene(*size), size[-1], 30 if size[-1] < 512 else 7)
        print(
            f"| {size[0]} | {size[1]} | {size[2]}×{size[2]} | {1e3 * ours[size]:.1f} | {peak() - before:.0f} |",
            flush=True,
        )
    # Its time grows exactly with the number of Gaussians: the large canvas takes a tenth of them, ten times.
    for size, part in (((4, 1000, 64), 1), ((1, 10_000, 512), 10)):
        particles, count, side = size
        scene = [value[:, : count // part].detach().requires_grad_(True) for value in gaussian_scene(*size)]
        dense = part * rendering_seconds(dense_rendering, scene, side, 3 if part == 1 else 1)
        print(
            f"dense rendering of {particles} × {count} at {side}×{side}: {1e3 * dense:.0f} ms, "
            f"{dense / ours[size]:.0f} times ours"
        )
