"""Views of Bézier strokes: their paths and control points over the picture, and an SVG file."""

import torch

from representations.curves import SPREAD, bezier
from representations.gaussian_kernels import LOW_PASS
from representations.overlay import overlay, overlay_factor


def paths(images, points, colors, least=384):
    """Every curve in its colour, its control points and the lines between them, over the faded image, back to front.

    images (B, 3, H, W), control points (B, K, 4 or 6, 2) in pixels, colors (B, K, 3) → (B, 3, H·k, W·k), where k is the
    least integer that makes them at least `least` pixels wide.
    """
    factor = overlay_factor(images, least)
    points = points * factor
    curves = [bezier(points[:, :, order], torch.linspace(0, 1, 24, device=points.device))[0] for order in sides(points)]
    lines, controls = torch.cat(curves, 2).cpu(), points.cpu()  # (B, K, T, 2) and (B, K, 4 or 6, 2)
    fills = (colors.clamp(0, 1) * 200).long().cpu().tolist()

    def draw(canvas, row):
        for index in reversed(range(len(fills[row]))):
            color, control = tuple(fills[row][index]), controls[row, index]
            canvas.line(control.flatten().tolist(), fill=(*color, 60))
            canvas.line(lines[row, index].flatten().tolist(), fill=(*color, 255), width=2)
            for x, y in control.tolist():
                canvas.rectangle((x - 1, y - 1, x + 1, y + 1), fill=(*color, 255))

    return overlay(images, factor, draw)


def sides(points):
    """Indices of each curve's control points: a stroke is one curve, a shape two, there and back."""
    return [[0, 1, 2, 3], [3, 4, 5, 0]] if points.shape[2] == 6 else [[0, 1, 2, 3]]


def write_svg(path, points, widths, colors, opacities, edges, background, size):
    """Writes one particle as SVG 1.1 paths, back to front.

    points (K, 4 or 6, 2) in pixels, strokes' widths (K,) in pixels or None for shapes, colors (K, 3), opacities (K,)
    of the whole stroke, edges (K,): how far it is visible beyond its width, in pixels; background (3,), size (H, W).
    """
    H, W = size
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" width="{W}" height="{H}">']
    lines.append(f'<rect width="{W}" height="{H}" fill="{css(background)}"/>')
    for index in reversed(range(len(points))):
        curves = [[points[index][place].tolist() for place in order] for order in sides(points[None])]
        (x, y), *_ = curves[0]
        data = f"M{x:.2f} {y:.2f}" + "".join("C" + " ".join(f"{a:.2f} {b:.2f}" for a, b in c[1:]) for c in curves)
        color, edge = css(colors[index]), edges[index].item()
        wide = 2 * edge + (0 if widths is None else widths[index].item())
        fill, close = ("none", "") if widths is not None else (color, "Z")
        wide, line = max(wide, 0), f'stroke-linejoin="round" opacity="{opacities[index].item():.4f}"'
        lines.append(f'<path d="{data}{close}" fill="{fill}" stroke="{color}" stroke-width="{wide:.3f}" {line}/>')
    path.write_text("\n".join([*lines, "</svg>\n"]), encoding="utf-8")


def css(color):
    return "#" + "".join(f"{round(255 * value):02x}" for value in color.clamp(0, 1).tolist())


def solid(scales, alphas, jacobians):
    """Scales (B, K, S, 2) and opacities (B, K, S) of the Gaussians along each stroke, and Jacobians (B, K, S, 2, 2)
    from surface() → the opacity of the whole stroke (B, K), and how far its edge lies beyond the outermost Gaussians
    (B, K), in pixels.

    The transmittance of all of them is Π (1 - α g_j) = e^-τ. -ln (1 - α g) = Σ_n (α g)^n / n, and the sum of g^n over a
    fine grid is 2π · spread / n, where `spread` is the product of a Gaussian's axes in areas of a grid cell, so
    τ = 2π · spread · Σ_n α^n / n². Across the edge, τ falls like a normal distribution function. At
    τ = -ln(1 - opacity / 2), the opacity is half of that inside.
    """
    widened = (scales.square() + LOW_PASS).sqrt()
    spreads = SPREAD**2 * (widened / scales.clamp(min=1e-6)).prod(-1)
    across = ((SPREAD * jacobians[..., 1].norm(dim=-1)) ** 2 + LOW_PASS).sqrt()
    n = torch.arange(1, 500, device=alphas.device)
    depth = 2 * torch.pi * spreads * (alphas[..., None] ** n / n**2).sum(-1)
    opacity = 1 - torch.exp(-depth)
    share = (-torch.log1p(-opacity / 2) / depth).clamp(1e-4, 0.5)
    # The median, because the Gaussians at the ends of a shape are thin.
    return opacity.median(2).values, (-across * torch.special.ndtri(share)).median(2).values
