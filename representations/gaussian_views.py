"""Views of Gaussians: their ellipses over the picture, their density, and a file for splat viewers."""

import math

import numpy as np
import torch

from representations.gaussian_kernels import LOW_PASS
from representations.heat_map import heat_map
from representations.overlay import overlay, overlay_factor


def ellipses(images, centers, scales, angles, colors, opacities, least=384):
    """Every Gaussian's outline at one standard deviation, in its colour and opacity, over the faded image, back to
    front.

    images (B, 3, H, W) and the arguments of rasterize() → (B, 3, H·k, W·k), where k is the least integer that makes
    them at least `least` pixels wide.
    """
    turn = torch.linspace(0, 2 * math.pi, 25)[:-1]
    circle = torch.stack([turn.cos(), turn.sin()], -1)  # (24, 2)
    cos, sin = angles.cos(), angles.sin()
    axes = (
        torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2) * scales[..., None, :]
    )  # (B, N, 2, 2)
    factor = overlay_factor(images, least)
    size = images.shape[-1] * factor, images.shape[-2] * factor
    points = ((circle.to(axes) @ axes.mT + centers[..., None, :]) * factor).cpu()  # (B, N, 24, 2)
    fills = (torch.cat([colors * 0.8, opacities[..., None]], -1) * 255).round().long().cpu().tolist()

    def draw(canvas, row):
        outlines = points[row]
        touching = ((outlines.amax(1) >= 0) & (outlines.amin(1) <= outlines.new_tensor(size))).all(1)
        for index in reversed(touching.nonzero()[:, 0].tolist()):
            canvas.polygon(outlines[index].flatten().tolist(), outline=tuple(fills[row][index]))

    return overlay(images, factor, draw)


def density(centers, opacities, size):
    """The density of the centers, as a heat map of cells from 0 to four times the mean → (B, 3, rows, columns), and a
    note with the scale. size: (H, W) in pixels.

    The cells hold four centers on average; with fewer, the map would mostly show chance.
    """
    (batch, count), (H, W) = opacities.shape, size
    rows, columns = (max(1, round((count / 4 * ratio) ** 0.5)) for ratio in (H / W, W / H))
    cells = centers.new_tensor([columns, rows])
    place = (centers / centers.new_tensor([W, H]) * cells).floor().long()  # (B, N, 2)
    inside = ((place >= 0) & (place < cells)).all(-1)
    index = (place[..., 1] * columns + place[..., 0]).clamp(0, rows * columns - 1)
    counts = torch.zeros(batch, rows * columns, device=centers.device).scatter_add_(1, index, inside.float())
    mean = count / (H * W)
    heat = heat_map(counts.view(batch, rows, columns) * (rows * columns / (H * W)), 4 * mean)
    away, unseen = 1 - inside.float().mean().item(), (opacities < 1 / 255).float().mean().item()
    return heat, f"0 … {4 * mean:.2f} centers a pixel; {away:.0%} off the canvas, {unseen:.0%} too transparent"


def write_ply(path, centers, scales, angles, colors, opacities, size, background):
    """Writes one particle's Gaussians in the layout of Kerbl et al.'s code, which splat viewers read.

    The canvas of size (H, W), its sides divided by √HW, is centred on the origin in the plane z = 0, viewed along +z
    with y downwards, as in their code. The first Gaussian is nearest, a tenth of the canvas in front of the last.
    Scales are logarithms and include the low-pass, since viewers apply a low-pass for their own screen. Opacities are
    logits, colours the constant spherical harmonic, and quaternions have the real part first. The layout has no field
    for the background, which is in a comment.
    """
    count = len(angles)
    zero = torch.zeros(count)
    H, W = size
    place = (centers - torch.tensor([W / 2, H / 2])) / (H * W) ** 0.5
    log_scales = 0.5 * ((scales**2 + LOW_PASS) / (H * W)).log()
    columns = {
        "x": place[:, 0],
        "y": place[:, 1],
        "z": 0.1 * torch.arange(count) / count,
        "nx": zero,
        "ny": zero,
        "nz": zero,
        **{f"f_dc_{i}": (colors[:, i] - 0.5) * 2 * math.sqrt(math.pi) for i in range(3)},
        "opacity": opacities.double().logit(eps=1e-7),
        "scale_0": log_scales[:, 0],
        "scale_1": log_scales[:, 1],
        "scale_2": torch.full((count,), math.log(1e-5)),
        "rot_0": (angles / 2).cos(),
        "rot_1": zero,
        "rot_2": zero,
        "rot_3": (angles / 2).sin(),
    }
    table = np.empty(count, [(name, "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values.numpy()
    ground = " ".join(f"{value:.4f}" for value in background.tolist())
    lines = ["ply", "format binary_little_endian 1.0", f"comment background {ground}", f"element vertex {count}"]
    lines += [*(f"property float {name}" for name in columns), "end_header\n"]
    path.write_bytes("\n".join(lines).encode() + table.tobytes())
