"""SDEdit. Meng et al. 2021, arXiv 2108.01073, with DDIM sampling. Not distillation, but the reference for methods
that edit."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from algorithms.ddim import DDIM
from priors.settings import Fraction


@dataclass
class SDEditSettings:
    strength: Annotated[Fraction, Field(gt=0)] = 0.6
    """How far the source is noised, as a fraction of the sampler's steps; at 1 nothing of the source is left."""


class SDEdit(DDIM):
    """Noises the source to the timestep that `strength` gives, then DDIM's g = z_t - z_t' with the target's prompt.

    The run is the last N of the round(N / strength) steps of a full sampling run.
    """

    defaults = {"algo.guidance_scale": 7.5, "steps": 30}
    required = {**DDIM.required, "rep.init": "source", "rep.init_std": None}
    edits = True
    Settings = SDEditSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.timesteps = prior.sampling_timesteps(round(steps / self.settings.strength))[-steps:]

    def gradient(self, z, t, particles, progress):
        z_t = z if progress else self.prior.add_noise(z, particles.noise_like(z), t)
        return z - z_t + super().gradient(z_t, t, particles, progress)
