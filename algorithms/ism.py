"""Interval Score Matching. Liang et al. 2023, LucidDreamer, arXiv 2311.11284, equation 17."""

from dataclasses import dataclass

import torch

from algorithms.inversion import climb
from algorithms.method import Method
from priors.prior import per_row


@dataclass
class ISMSettings:
    delta_t: int = 80
    """δ_T, the interval of timesteps whose scores are matched."""
    delta_t_start: int | None = None
    """δ_T at the start of the run, from where it falls towards delta-t in a straight line (the authors: 100). None: it stays."""
    delta_s: int = 200
    """δ_S, the step of the inversion."""
    max_steps: int = 5
    """n_max, the most inversion steps; where they do not reach down to t = 0, the lowest latents are noised at random."""


class ISM(Method):
    """g = ε̂^s(z_t; y, t) - ε̂(z_s; ∅, s), s = t - δ_T.

    z_s comes from z by DDIM inversion with the empty prompt, and z_t by one inversion step more. So no random noise is in g,
    and the picture that it pulls to is the same at every step: SDS's averages over the noise, and blurs.
    """

    # One timestep to look at in place of three: each costs an inversion.
    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "ism", "log.timesteps": [500]}
    Settings = ISMSettings

    @classmethod
    def check(cls, settings, require):
        cls.check_counts(require, "ism", settings, "delta_t", "delta_t_start", "delta_s", "max_steps")

    def least_timestep(self):
        return max(self.settings.delta_t, self.settings.delta_t_start or 0)

    def gradient(self, z, t, progress):
        prior, empty, setting = self.prior, self.particles.empty, self.settings
        delta_T = setting.delta_t
        if setting.delta_t_start is not None:
            delta_T = round(setting.delta_t_start + (delta_T - setting.delta_t_start) * progress)
        s = t - delta_T
        t_0 = (s - setting.max_steps * setting.delta_s).clamp(min=0)
        # Drawn whether it is needed or not: a row's random numbers must not depend on the others.
        noise = self.particles.noise_like(z)
        z_0 = torch.where(per_row(t_0, z) > 0, prior.add_noise(z, noise, t_0), z)
        z_s = climb(
            prior,
            z_0,
            t_0,
            s,
            stop=lambda k: t_0 + k * setting.delta_s,
            predict=lambda z_a, a: prior.predict_noise(z_a, a, empty),
        )
        noise_s = prior.predict_noise(z_s, s, empty)
        z_t = prior.ddim_step(z_s, noise_s, s, t)
        return prior.guided_noise(z_t, t, self.particles.text, self.particles.negative, self.s) - noise_s
