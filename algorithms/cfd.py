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
        with particles.stream("noise that stays"):
            self.noise = particles.randn(*prior.latent_shape)

    def gradient(self, z, t, progress):
        gamma, noise = self.settings.gamma, self.noise[self.particles.rows]
        if gamma:
            noise = (1 - gamma) ** 0.5 * noise + gamma**0.5 * self.particles.noise_like(z).to(z)
            self.noise = self.particles.replace_rows(self.noise, noise)
        z_t = self.prior.add_noise(z, noise, t)
        return self.record("x0", z_t, self.guided_noise(z_t, t), t) - noise
