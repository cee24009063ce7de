"""Consistent Flow Distillation. Yan et al. 2025, arXiv 2501.05445; γ = 0 is Flow Score Distillation, Yan et al. 2024,
arXiv 2405.10988."""

from dataclasses import dataclass

from algorithms.method import Method
from priors.settings import Fraction


@dataclass
class CFDSettings:
    gamma: Fraction = 0.0
    """γ, how much of the noise is redrawn at each step: 0 is FSD, 1 is SDS."""


class CFD(Method):
    """g = ε̂^s(√ᾱ_t z + √(1-ᾱ_t) ε*; y, t) - ε*. Each particle's ε* is fixed, or with γ > 0 ε* ← √(1-γ) ε* + √γ ξ.

    At γ = 0, with SGD at rate 1, falling timesteps and the weight `ddim`, it is DDIM sampling from
    √ᾱ_T z + √(1-ᾱ_T) ε*.
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.timestep": "linear", "schedule.weight": "dreamfusion"}
    like = "sds"
    Settings = CFDSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.register_buffer("noise", particles.fixed_noise())

    def gradient(self, z, t, particles, progress):
        gamma, noise = self.settings.gamma, self.noise[particles.rows]
        if gamma:
            noise = (1 - gamma) ** 0.5 * noise + gamma**0.5 * particles.noise_like(z)
            self.noise[particles.rows] = noise
        z_t = self.prior.add_noise(z, noise, t)
        predicted = self.guided_noise(z_t, t, particles.y, particles.y_negative)
        self.record("x0", z_t, predicted, t)
        return predicted - noise
