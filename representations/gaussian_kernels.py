"""The CPU kernels for 2D Gaussians, compiled by numba on first use and cached next to this file.

They compute in float64: it costs little here, and sums over a thousand layers stay exact. All sums are added in an
order that does not depend on the threads.

ellipses (B, N, 8)   center x, y, cos θ, sin θ, 1/λ₁, 1/λ₂, opacity, cutoff;  λ = s² + 0.3 are the eigenvalues of Σ,
                     and α falls below 1/255 where σ = ½ dᵀΣ⁻¹d exceeds the cutoff. In the Gaussian's own axes u =
                     d·(cos θ, sin θ) and v = d·(-sin θ, cos θ), σ = ½ (u²/λ₁ + v²/λ₂): no determinant, so no
                     cancellation for long, thin Gaussians.
boxes (B, N, 4)      first x, last x + 1, first y, last y + 1 of the pixels on the canvas that it can touch
"""

import math

import numpy as np
from numba import njit, prange

# Here and not in rasterizer.py, because numba recompiles only when this file changes.
LOW_PASS = 0.3  # pixel²
LEAST_ALPHA = 1 / 255
LARGEST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4
TILE = 16  # pixels


def kernel(**options):
    """numba's njit, with its results cached on disk if possible."""

    def compile_later(function):
        try:
            return njit(cache=True, error_model="numpy", **options)(function)
        except RuntimeError:  # neither this folder nor the user's cache is writable
            return njit(error_model="numpy", **options)(function)

    return compile_later


@kernel()
def shapes(centers, scales, angles, opacities, height, width):
    """→ ellipses, boxes. A Gaussian that is not visible has an empty box."""
    batch, count = angles.shape
    ellipses, boxes = np.zeros((batch, count, 8)), np.zeros((batch, count, 4), np.int32)
    for b in range(batch):
        for n in range(count):
            opacity = opacities[b, n]
            if opacity < LEAST_ALPHA:
                continue
            x, y = centers[b, n]
            cos, sin = math.cos(angles[b, n]), math.sin(angles[b, n])
            first, second = scales[b, n, 0] ** 2 + LOW_PASS, scales[b, n, 1] ** 2 + LOW_PASS
            cutoff = math.log(opacity / LEAST_ALPHA)
            ellipses[b, n] = (x, y, cos, sin, 1 / first, 1 / second, opacity, cutoff)
            reach_x = math.sqrt(2 * cutoff * (cos * cos * first + sin * sin * second))
            reach_y = math.sqrt(2 * cutoff * (sin * sin * first + cos * cos * second))
            boxes[b, n, 0] = math.ceil(min(max(x - reach_x - 0.5, 0), width))
            boxes[b, n, 1] = math.floor(min(max(x + reach_x + 0.5, 0), width))
            boxes[b, n, 2] = math.ceil(min(max(y - reach_y - 0.5, 0), height))
            boxes[b, n, 3] = math.floor(min(max(y + reach_y + 0.5, 0), height))
    return ellipses, boxes


@kernel()
def _tiles(box):
    """First and last + 1 tile of a box, across and down; no tiles for an empty box."""
    if box[0] >= box[1] or box[2] >= box[3]:
        return 0, 0, 0, 0
    return box[0] // TILE, (box[1] - 1) // TILE + 1, box[2] // TILE, (box[3] - 1) // TILE + 1


@kernel(parallel=True)
def sort_into_tiles(boxes, height, width):
    """Lists the Gaussians of every tile, front to back → starts (B · tiles + 1,), order: tile k has
    order[starts[k]:starts[k+1]]."""
    batch, count = boxes.shape[:2]
    across, down = -(-width // TILE), -(-height // TILE)
    starts = np.zeros(batch * across * down + 1, np.int64)
    for b in prange(batch):
        for n in range(count):
            left, right, top, bottom = _tiles(boxes[b, n])
            for row in range(top, bottom):
                for column in range(left, right):
                    starts[(b * down + row) * across + column + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(starts[-1], np.int32)
    for b in prange(batch):
        free = starts[b * down * across : (b + 1) * down * across].copy()
        for n in range(count):
            left, right, top, bottom = _tiles(boxes[b, n])
            for row in range(top, bottom):
                for column in range(left, right):
                    tile = row * across + column
                    order[free[tile]] = n
                    free[tile] += 1
    return starts, order


@kernel()
def _span(ellipse, y, left, right):
    """The first and the last + 1 of the pixels x in row y that the Gaussian can touch, within [left, right).

    They span the ellipse's chord. As det Σ⁻¹ = 1/λ₁λ₂ is known, its length is the root of a plain difference.
    """
    center_x, center_y, cos, sin, first, second, _, cutoff = ellipse
    dy = y + 0.5 - center_y
    a = cos * cos * first + sin * sin * second
    under = 2 * cutoff * a - dy * dy * first * second
    if under < 0:
        return left, left
    if a == 0:
        return left, right
    half = math.sqrt(under) / a
    middle = center_x - cos * sin * (first - second) / a * dy
    # One more pixel at either end, so that rounding loses none; each pixel is tested again later.
    return int(max(left, min(right, middle - half - 1.5))), int(max(left, min(right, middle + half + 1.5)))


@kernel()
def _pixels(tile, height, width):
    """A tile's particle, and its first and last + 1 row and column of pixels."""
    across, down = -(-width // TILE), -(-height // TILE)
    b, top, left = tile // (down * across), tile // across % down * TILE, tile % across * TILE
    return b, top, min(top + TILE, height), left, min(left + TILE, width)


@kernel()
def _sigma(ellipse, x, y):
    """→ u, v, σ of pixel (x, y)."""
    center_x, center_y, cos, sin, first, second, _, _ = ellipse
    dx, dy = x + 0.5 - center_x, y + 0.5 - center_y
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    return u, v, 0.5 * (u * u * first + v * v * second)


@kernel(parallel=True)
def forward(ellipses, boxes, colors, ground, starts, order, height, width):
    """→ images (B, H, W, 3), T after the last Gaussian (B, H, W), and how far into its tile's list each pixel got
    (B, H, W)."""
    batch = ellipses.shape[0]
    across, down = -(-width // TILE), -(-height // TILE)
    images = np.zeros((batch, height, width, 3))
    transmittances = np.ones((batch, height, width))
    ends = np.zeros((batch, height, width), np.int32)
    for tile in prange(batch * down * across):
        b, top, bottom, left, right = _pixels(tile, height, width)
        done = np.zeros((TILE, TILE), np.bool_)
        open_pixels = (bottom - top) * (right - left)
        for entry in range(starts[tile], starts[tile + 1]):
            if open_pixels == 0:
                break
            n = order[entry]
            ellipse, box, color = ellipses[b, n], boxes[b, n], colors[b, n]
            opacity, cutoff = ellipse[6], ellipse[7]
            for y in range(max(top, box[2]), min(bottom, box[3])):
                begin, end = _span(ellipse, y, max(left, box[0]), min(right, box[1]))
                for x in range(begin, end):
                    if done[y - top, x - left]:
                        continue
                    _, _, sigma = _sigma(ellipse, x, y)
                    if sigma > cutoff:
                        continue
                    alpha = min(LARGEST_ALPHA, opacity * math.exp(-sigma))
                    after = transmittances[b, y, x] * (1 - alpha)
                    if after <= LEAST_TRANSMITTANCE:
                        done[y - top, x - left] = True
                        open_pixels -= 1
                        continue
                    seen = alpha * transmittances[b, y, x]
                    for channel in range(3):
                        images[b, y, x, channel] += seen * color[channel]
                    transmittances[b, y, x] = after
                    ends[b, y, x] = entry - starts[tile] + 1
        for y in range(top, bottom):
            for x in range(left, right):
                for channel in range(3):
                    images[b, y, x, channel] += transmittances[b, y, x] * ground[b, channel]
    return images, transmittances, ends


@kernel(parallel=True)
def backward(ellipses, boxes, colors, ground, starts, order, transmittances, ends, gradient):
    """gradient ∂L/∂images (B, H, W, 3) → sums (B, N, 9) over the pixels of every Gaussian: ∂L/∂color (3),
    ∂L/∂opacity, and of ∂L/∂σ times u, v, u², v², uv, for σ = ½ (u²/λ₁ + v²/λ₂).

    Back to front: T_i = T_{i+1} / (1 - α_i), and ∂C/∂α_i = T_i (c_i - the colour behind it).
    """
    batch, count = ellipses.shape[:2]
    height, width = gradient.shape[1:3]
    across, down = -(-width // TILE), -(-height // TILE)
    parts = np.zeros((len(order), 9))  # one per Gaussian and tile, so that no two threads add to the same number
    for tile in prange(batch * down * across):
        b, top, bottom, left, right = _pixels(tile, height, width)
        behind, last = np.zeros((TILE, TILE)), 0
        light = transmittances[b, top:bottom, left:right].copy()
        for y in range(top, bottom):
            for x in range(left, right):
                last = max(last, ends[b, y, x])
                for channel in range(3):
                    behind[y - top, x - left] += ground[b, channel] * gradient[b, y, x, channel]
        for place in range(last - 1, -1, -1):
            entry = starts[tile] + place
            n = order[entry]
            ellipse, box, color, part = ellipses[b, n], boxes[b, n], colors[b, n], parts[entry]
            opacity, cutoff = ellipse[6], ellipse[7]
            for y in range(max(top, box[2]), min(bottom, box[3])):
                begin, end = _span(ellipse, y, max(left, box[0]), min(right, box[1]))
                for x in range(begin, end):
                    if place >= ends[b, y, x]:
                        continue
                    u, v, sigma = _sigma(ellipse, x, y)
                    if sigma > cutoff:
                        continue
                    falloff = math.exp(-sigma)
                    alpha = min(LARGEST_ALPHA, opacity * falloff)
                    light[y - top, x - left] /= 1 - alpha
                    before = light[y - top, x - left]
                    along = 0.0
                    for channel in range(3):
                        along += color[channel] * gradient[b, y, x, channel]
                        part[channel] += alpha * before * gradient[b, y, x, channel]
                    by_alpha = before * (along - behind[y - top, x - left])
                    behind[y - top, x - left] += alpha * (along - behind[y - top, x - left])
                    if opacity * falloff <= LARGEST_ALPHA:
                        part[3] += falloff * by_alpha
                        by_sigma = -alpha * by_alpha
                        part[4] += by_sigma * u
                        part[5] += by_sigma * v
                        part[6] += by_sigma * u * u
                        part[7] += by_sigma * v * v
                        part[8] += by_sigma * u * v
    sums = np.zeros((batch, count, 9))
    for b in prange(batch):
        for entry in range(starts[b * down * across], starts[(b + 1) * down * across]):
            sums[b, order[entry]] += parts[entry]
    return sums


@kernel()
def gradients(sums, ellipses, scales):
    """The chain rule from σ, u and v to centers, scales and angles; ∂u/∂θ = v, ∂v/∂θ = -u."""
    batch, count = sums.shape[:2]
    centers, sizes, angles = np.zeros((batch, count, 2)), np.zeros((batch, count, 2)), np.zeros((batch, count))
    for b in range(batch):
        for n in range(count):
            _, _, cos, sin, first, second, _, _ = ellipses[b, n]
            u, v, uu, vv, uv = sums[b, n, 4:]
            centers[b, n, 0] = sin * second * v - cos * first * u
            centers[b, n, 1] = -sin * first * u - cos * second * v
            sizes[b, n, 0] = -scales[b, n, 0] * first * first * uu
            sizes[b, n, 1] = -scales[b, n, 1] * second * second * vv
            angles[b, n] = (first - second) * uv
    return centers, sizes, angles, sums[:, :, :3].copy(), sums[:, :, 3].copy()
