"""Diverse Score Distillation. Xu et al. 2024, arXiv 2412.06780."""

import functools

import torch

from algorithms.asd import asynchronous_noise
from algorithms.method import Method

KNOTS = 11


class DSD(Method):
    """g = ε̂^s(√ᾱ_t z + √(1-ᾱ_t) e_δ; y, t) - ε̂(√ᾱ_δ z + √(1-ᾱ_δ) e_δ; y, t_δ), t_δ = t + ⌊U · 0.1 (t - 0.32 T)⌋.

    e_δ is the prediction at t_δ on a DDIM sampling path over 11 timesteps from the particle's own noise ε*, so that
    each particle follows its own sample. The path depends only on ε* and y, and is computed once.
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.timestep": "hifa", "schedule.weight": "dreamfusion"}
    defaults |= {"schedule.t_min": 0.32}
    like = "sds"

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.y, self.y_negative = particles.y, particles.y_negative
        self.register_buffer("noise", particles.fixed_noise())

    @functools.cached_property
    def path(self) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """The falling timesteps of the path, and the latents x and the prediction ε̂^s at each."""
        knots = torch.linspace(self.prior.noising.max_t, 0, KNOTS).round().long()
        x, xs, noises = self.noise, [], []
        for index, knot in enumerate(knots.tolist()):
            t = torch.full((len(x),), knot)
            xs.append(x)
            noises.append(self.guided_noise(x, t, self.y, self.y_negative))
            if index + 1 < KNOTS:
                x = self.prior.ddim_step(x, noises[-1], t, torch.full((len(x),), int(knots[index + 1])))
        return knots, xs, noises

    def gradient(self, z, t, particles, progress):
        prior = self.prior
        knots, xs, noises = self.path
        u = particles.uniform()
        later = t + (u * 0.1 * (t - 0.32 * prior.num_train_timesteps).clamp(min=0)).long()
        later = later.clamp(max=prior.noising.max_t)
        # A DDIM step from the last knot that is not below t_δ.
        above = (knots[:, None] >= later).sum(0) - 1
        rows = torch.arange(len(self.noise))[particles.rows].tolist()
        at = list(zip(above.tolist(), rows, strict=True))
        x, noise = (torch.stack([values[k][row] for k, row in at]) for values in (xs, noises))
        x = prior.ddim_step(x, noise, knots[above], later)
        noise = self.guided_noise(x, later, particles.y, particles.y_negative)
        return asynchronous_noise(self, z, noise, t, later, particles)
