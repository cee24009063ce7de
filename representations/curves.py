"""The geometry of cubic Bézier curves and of the Gaussians sampled along them."""

import torch

SPREAD = 0.6  # Standard deviation of a Gaussian over the distance to the next: flat to 2 %.


def surface(points, widths, along, across):
    """Points (B, K, 4, 2) and widths (B, K) of strokes, or (B, K, 6, 2) and None, in pixels → points on a grid of
    (t, u), (B, K, along · across, 2), and Jacobians (…, 2, 2), columns ∂S/∂t, ∂S/∂u, scaled to one grid step."""
    t = (torch.arange(along, device=points.device) + 0.5) / along
    u = (torch.arange(across, device=points.device)[:, None] + 0.5) / across  # (across, 1), beside (B, K, …, 2)
    curve, tangent, bend = bezier(points[:, :, :4], t)  # (B, K, along, 2)
    if widths is None:
        other, other_tangent, _ = bezier(points[:, :, [0, 5, 4, 3]], t)
        centers = curve[..., None, :] * (1 - u) + other[..., None, :] * u  # (B, K, along, across, 2)
        by_t = tangent[..., None, :] * (1 - u) + other_tangent[..., None, :] * u
        by_u = (other - curve)[..., None, :].expand_as(by_t)
    else:
        speed = tangent.norm(dim=-1, keepdim=True) + 1e-3
        direction = tangent / speed
        normal = torch.stack([-direction[..., 1], direction[..., 0]], -1)
        turn = cross(tangent, bend)[..., None] / speed**2  # radians, for t from 0 to 1
        by_u = (normal * widths[:, :, None, None])[..., None, :]
        centers = curve[..., None, :] + by_u * (u - 0.5)
        outwards = widths[:, :, None, None, None] * (u - 0.5)  # (B, K, 1, across, 1)
        by_t = direction[..., None, :] * (speed[..., None, :] - outwards * turn[..., None, :])
        by_u = by_u.expand_as(by_t)
    jacobians = torch.stack([by_t / along, by_u / across], -1)
    return centers.flatten(2, 3), jacobians.flatten(2, 3)


def bezier(points, t):
    """Control points (B, K, 4, 2) → the curve and its first two derivatives at t (T,): (B, K, T, 2) each."""
    s = 1 - t
    curve = [s**3, 3 * s**2 * t, 3 * s * t**2, t**3]  # Bernstein's polynomials
    first = [-3 * s**2, 3 * s * (s - 2 * t), 3 * t * (2 * s - t), 3 * t**2]
    second = [6 * s, 6 * (t - 2 * s), 6 * (s - 2 * t), 6 * t]
    basis = torch.stack([torch.stack(parts, -1) for parts in (curve, first, second)])  # (3, T, 4)
    return (basis.to(points) @ points[:, :, None]).unbind(2)


def axes(matrices):
    """(…, 2, 2) → singular values (…, 2) and the angle (…) of the first left singular vector, in closed form. Also
    differentiable where both values are equal and the angle is arbitrary."""
    (a, b), (c, d) = (row.unbind(-1) for row in matrices.unbind(-2))
    e, f, g, h = (a + d) / 2, (a - d) / 2, (c + b) / 2, (c - b) / 2
    q, r = torch.stack([e, h], -1).norm(dim=-1), torch.stack([f, g], -1).norm(dim=-1)
    return torch.stack([q + r, (q - r).abs()], -1), (torch.atan2(g, f) + torch.atan2(h, e)) / 2


def crossing(points):
    """The penalty on cubic curves (…, 4 or 6, 2) that cross themselves, the Xing loss of Ma et al. 2022, summed over
    the curves: the magnitude of the sine of the angle from the first to the last side of the control polygon, if its
    sign differs from that of the angle from the first to the second side."""
    curves = [points[..., :4, :]] + ([points[..., [3, 4, 5, 0], :]] if points.shape[-2] == 6 else [])
    total = 0
    for curve in curves:
        first, second, last = curve.diff(dim=-2).unbind(-2)
        turn, sine = cross(first, second), cross(first, last) / (first.norm(dim=-1) * last.norm(dim=-1) + 1e-6)
        total = total + torch.where(turn >= 0, -sine, sine).clamp(min=0).sum()
    return total


def cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
