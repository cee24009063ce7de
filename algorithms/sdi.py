"""Score Distillation via Inversion. Lukoianov et al. 2024, arXiv 2405.15891, equations 8, 10 and 11."""

from dataclasses import dataclass

import torch

from algorithms.inversion import climb
from algorithms.method import Method
from priors.prior import per_row


@dataclass
class SDISettings:
    inversion_guidance_scale: float = -7.5
    """s_inv, the guidance scale of the inversion; negative, so that the inverted noise undoes the guidance that follows."""
    inversion_steps: int = 10
    """n, steps that an inversion up to T would take."""
    eta: float = 0.3
    """η, how much fresh noise each of them adds; 0 is deterministic."""


class SDI(Method):
    """g = ε̂^s(z_t; y, t) - ε_inv: SDS whose noise is regressed from z by DDIM inversion, not drawn.

    z is inverted with the prompt at guidance s_inv over the multiples of T/n below t and then onto t; a step from a to b adds
    η σ ξ, σ² = (1-ᾱ_a)/(1-ᾱ_b) (1-ᾱ_b/ᾱ_a). Then ε_inv = (z_t - √ᾱ_t z)/√(1-ᾱ_t). With the weight √((1-ᾱ_t)/ᾱ_t) this is the
    gradient of ½‖z - ẑ_0(z_t, ε̂^s)‖² with the prediction held fixed.
    """

    # One timestep to look at in place of three: each costs an inversion, and few steps make a run.
    defaults = {
        "algo.guidance_scale": 7.5,
        "schedule.timestep": "linear",
        "schedule.weight": "ism",
        "log.timesteps": [500],
    }
    Settings = SDISettings

    @classmethod
    def check(cls, settings, require):
        scale, eta = settings.inversion_guidance_scale, settings.eta
        require(abs(scale) < float("inf"), f"--algo.sdi.inversion-guidance-scale {scale}: a finite number is needed")
        cls.check_counts(require, "sdi", settings, "inversion_steps")
        require(0 <= eta < float("inf"), f"--algo.sdi.eta {eta}: 0 or more is needed")

    def gradient(self, z, t, progress):
        prior, particles, setting = self.prior, self.particles, self.settings
        T, n = len(prior.alphas_cumprod), setting.inversion_steps
        # ξ, drawn for all n steps: how many a row needs must not depend on the others.
        xi = particles.noise_like(z, n)

        def fresh_noise(k, a, b):
            alpha_a, alpha_b = prior.alphas_cumprod[a], prior.alphas_cumprod[b]
            sigma = ((1 - alpha_a) / (1 - alpha_b) * (1 - alpha_b / alpha_a)).sqrt()
            return setting.eta * per_row(sigma, z) * xi[:, k]

        s_inv = setting.inversion_guidance_scale
        z_t = climb(
            prior,
            z,
            torch.zeros_like(t),
            t,
            stop=lambda k: torch.full_like(t, round(k * T / n)),
            predict=lambda z_a, a: prior.guided_noise(z_a, a, particles.text, particles.negative, s_inv),
            added=fresh_noise,
        )
        alpha, sigma = prior.coefficients(t, z)
        noise_inv = (z_t - alpha * z) / sigma
        return prior.guided_noise(z_t, t, particles.text, particles.negative, self.s) - noise_inv
