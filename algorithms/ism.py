"""Interval Score Matching. Liang et al. 2023, LucidDreamer, arXiv 2311.11284, equation 17."""

from dataclasses import dataclass

import torch
from pydantic import PositiveInt

from algorithms.ddim_inversion import ddim_invert
from algorithms.method import Method
from priors.device import per_row


@dataclass
class ISMSettings:
    delta_t: PositiveInt = 80
    """δ_T, the interval of timesteps whose scores are matched."""
    delta_t_start: PositiveInt | None = None
    """δ_T at the start of the run; it changes linearly to delta-t (the authors: 100). None: δ_T is constant."""
    delta_s: PositiveInt = 200
    """δ_S, the step of the inversion."""
    max_steps: PositiveInt = 5
    """n_max, the most inversion steps. If they do not reach down to t = 0, they start from randomly noised latents."""


class ISM(Method):
    """g = ε̂^s(z_t; y, t) - ε̂(z_s; ∅, s), s = t - δ_T.

    z_s comes from z by DDIM inversion with the empty prompt, and z_t by one more inversion step. So g has no random
    noise (if t_0 = 0), and its pseudo ground truth changes less between steps. SDS averages over the noise, and blurs.
    """

    # One timestep to probe instead of three: each costs an inversion.
    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "ism", "log.timesteps": [0.5]}
    Settings = ISMSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.min_t = max(self.settings.delta_t, self.settings.delta_t_start or 0)

    def gradient(self, z, t, particles, progress):
        prior, y_empty, setting = self.prior, particles.y_empty, self.settings
        delta_T = setting.delta_t
        if setting.delta_t_start is not None:
            delta_T = round(setting.delta_t_start + (delta_T - setting.delta_t_start) * progress)
        s = t - delta_T
        t_0 = (s - setting.max_steps * setting.delta_s).clamp(min=0)
        # Always drawn, even if not needed: a row's random numbers must not depend on the other rows.
        noise = particles.noise_like(z)
        z_0 = torch.where(per_row(t_0, z) > 0, prior.add_noise(z, noise, t_0), z)

        def timestep(k):
            return t_0 + k * setting.delta_s

        z_s = ddim_invert(prior, z_0, t_0, s, timestep, lambda z_a, a: prior.predict_noise(z_a, a, y_empty))
        noise_s = prior.predict_noise(z_s, s, y_empty)
        z_t = prior.ddim_step(z_s, noise_s, s, t)
        predicted = self.guided_noise(z_t, t, particles.y, particles.y_negative)
        self.record("x0", z_t, predicted, t)
        return predicted - noise_s
