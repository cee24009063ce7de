"""Repulsive forces between the particles of a prompt; each function returns the new gradient (N, C, h, w).

z_t (N, C, h, w) are the particles' noised latents. Medians are of the squared distances of all pairs.
"""

import math

import torch


def pairs(z_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z_i - z_j (N, N, d), ‖z_i - z_j‖² (N, N), and its median over i ≠ j. Particles that coincide stay together."""
    flat = z_t.flatten(1)
    difference = flat[:, None] - flat[None]
    square = difference.square().sum(2)
    median = square[~torch.eye(len(z_t), dtype=torch.bool, device=z_t.device)].median()
    return difference, square, median.clamp(min=torch.finfo(z_t.dtype).tiny ** 0.5)


def svgd(gradient: torch.Tensor, z_t: torch.Tensor, sigma: torch.Tensor, scale: float) -> torch.Tensor:
    """g_i = 1/N Σ_j (k_ij g_j - c 2γ k_ij (z_i - z_j)), k = exp(-γ d²), γ = log(N+1) / median d²: Stein variational
    gradient descent. Kim et al. 2023, Collaborative Score Distillation, arXiv 2307.04787."""
    n = len(z_t)
    difference, square, median = pairs(z_t)
    gamma = math.log(n + 1) / median
    k = (-gamma * square).exp()
    force = 2 * gamma * (k[..., None] * difference).sum(1)
    return (k @ gradient.flatten(1) - scale * force).view_as(gradient) / n


def rsd(gradient: torch.Tensor, z_t: torch.Tensor, sigma: torch.Tensor, scale: float) -> torch.Tensor:
    """g_i - c σ_t r_i, r_i = Σ_j (2 k_ij/h) (z_i - z_j) / Σ_{j≠i} k_ij, k = exp(-d²/h), h = median d² / log(N-1), σ_t =
    √(1-ᾱ_t) (N, 1, 1, 1). Zilberstein et al. 2024, Repulsive Score Distillation, arXiv 2406.16683. For two particles
    h is infinite, and there is no repulsion."""
    n = len(z_t)
    difference, square, median = pairs(z_t)
    h = median / math.log(n - 1)
    k = (-square / h).exp() * (1 - torch.eye(n, device=z_t.device, dtype=z_t.dtype))
    force = 2 / h * (k[..., None] * difference).sum(1) / k.sum(1, keepdim=True).clamp(min=torch.finfo(k.dtype).tiny)
    return gradient - scale * sigma * force.view_as(gradient)


REPULSION = {"svgd": (svgd, 2), "rsd": (rsd, 3)}  # and the least number of particles
