"""Asynchronous Score Distillation. Ma et al. 2024, ScaleDreamer, arXiv 2407.02040."""

from dataclasses import dataclass

import torch

from algorithms.method import Method
from algorithms.particles import Particles
from priors.settings import Fraction


@dataclass
class ASDSettings:
    shift: Fraction = 0.1
    """The largest shift: Δ ≤ shift · (t - 0.02 T)."""


def asynchronous_noise(
    method: Method, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, later: torch.Tensor, particles: Particles
) -> torch.Tensor:
    """ε̂^s(√ᾱ_t z + √(1-ᾱ_t) e; y, t) - ε̂(√ᾱ_t' z + √(1-ᾱ_t') e; y, t') for a noise e (B, C, h, w) and a t' ≥ t
    (B,)."""
    prior = method.prior
    z_t, z_later = prior.add_noise(z, noise, t), prior.add_noise(z, noise, later)
    reference = prior.predict_noise(z_later, later, particles.y)
    predicted = method.guided_noise(z_t, t, particles.y, particles.y_negative)
    method.record("x0", z_t, predicted, t)
    return predicted - reference


class ASD(Method):
    """g = ε̂^s(z_t; y, t) - ε̂(z_{t+Δ}; y, t+Δ), the same ε for both, Δ = ⌊U[0, 1) · 0.1 (t - t_min)⌋, t_min = 0.02 T.

    VSD trains φ to predict the particles' noise better than the prior does. ASD instead evaluates the prior at a
    larger timestep, where its error is smaller. Two calls, of B and of 2B rows.
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "dreamfusion"}
    like = "sds"
    Settings = ASDSettings

    def gradient(self, z, t, particles, progress):
        prior = self.prior
        noise, u = particles.noise_like(z), particles.uniform()
        delta = (u * self.settings.shift * (t - 0.02 * prior.num_train_timesteps).clamp(min=0)).long()
        later = (t + delta).clamp(max=prior.noising.max_t)
        return asynchronous_noise(self, z, noise, t, later, particles)
