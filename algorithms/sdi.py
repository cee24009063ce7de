"""Score Distillation via Inversion. Lukoianov et al. 2024, arXiv 2405.15891, equations 8, 10 and 11."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import PositiveInt

from algorithms.ddim_inversion import ddim_invert
from algorithms.method import Method
from priors.device import per_row
from priors.settings import Finite, NonNegative, when


@dataclass
class SDISettings:
    noise: Literal["inverted", "cached"] = "inverted"
    """ε_inv: from DDIM inversion of z, or the last step's prediction (the authors' choice in two dimensions)."""
    inversion_guidance_scale: Annotated[Finite, when(noise="inverted")] = -7.5
    """s_inv, the guidance scale of the inversion; negative, so that the inverted noise offsets the guidance that
    follows."""
    inversion_steps: Annotated[PositiveInt, when(noise="inverted")] = 10
    """n, the number of steps of an inversion up to T."""
    eta: Annotated[NonNegative, when(noise="inverted")] = 0.3
    """η, how much fresh noise each inversion step adds; 0 is deterministic."""


class SDI(Method):
    """g = ε̂^s(z_t; y, t) - ε_inv: SDS with noise from DDIM inversion of z instead of random noise.

    z is inverted with the prompt and guidance s_inv over the multiples of T/n below t, then to t. A step from a to b
    adds η σ ξ, σ² = (1-ᾱ_a)/(1-ᾱ_b) (1-ᾱ_b/ᾱ_a). Then ε_inv = (z_t - √ᾱ_t z)/√(1-ᾱ_t). With the weight
    √((1-ᾱ_t)/ᾱ_t) this is the gradient of ½‖z - ẑ_0(z_t, ε̂^s)‖² with the prediction held fixed.

    Cached: κ ← ε at the first step; z_t = √ᾱ_t z + √(1-ᾱ_t) κ, g = ε̂^s(z_t; y, t) - κ, then κ ← ε̂^s. With that
    weight, falling timesteps and SGD at rate 1 it is DDIM sampling from √ᾱ_T z + √(1-ᾱ_T) ε.
    """

    # One timestep to probe instead of three: each costs an inversion, and a run has few steps.
    defaults = {"algo.guidance_scale": 7.5, "log.timesteps": [0.5]}
    defaults |= {"schedule.timestep": "linear", "schedule.weight": "ism"}
    Settings = SDISettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        if self.settings.noise == "cached":
            self.register_buffer("noise", particles.fixed_noise())

    def gradient(self, z, t, particles, progress):
        if self.settings.noise == "cached":
            cached = self.noise[particles.rows].clone()
            z_t = self.prior.add_noise(z, cached, t)
            predicted = self.noise[particles.rows] = self.guided_noise(z_t, t, particles.y, particles.y_negative)
            self.record("x0", z_t, predicted, t)
            return predicted - cached
        prior, setting = self.prior, self.settings
        T, n = prior.num_train_timesteps, setting.inversion_steps
        # ξ, drawn for all n steps: a row's random numbers must not depend on how many steps the others need.
        xi = particles.noise_like(z, n)

        def timestep(k):
            return torch.full_like(t, round(k * T / n))

        def predict(z_a, a):
            s_inv = setting.inversion_guidance_scale  # no rescale, no Perp-Neg: it makes no picture
            return prior.guided_noise(z_a, a, particles.y, particles.y_negative, s_inv)

        def extra_noise(k, a, b):
            alpha_a, alpha_b = prior.alphas_cumprod[a], prior.alphas_cumprod[b]
            sigma = ((1 - alpha_a) / (1 - alpha_b) * (1 - alpha_b / alpha_a)).sqrt()
            return setting.eta * per_row(sigma, z) * xi[:, k]

        z_t = ddim_invert(prior, z, torch.zeros_like(t), t, timestep, predict, extra_noise)
        alpha, sigma = prior.coefficients(t, z)
        noise_inv = (z_t - alpha * z) / sigma
        predicted = self.guided_noise(z_t, t, particles.y, particles.y_negative)
        self.record("x0", z_t, predicted, t)
        return predicted - noise_inv
