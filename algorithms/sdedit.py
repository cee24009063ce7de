"""SDEdit. Meng et al. 2021, arXiv 2108.01073, with DDIM sampling. No distillation: the yardstick beside the methods that edit."""

from dataclasses import dataclass

from algorithms.ddim import DDIM
from algorithms.method import Method


@dataclass
class SDEditSettings:
    strength: float = 0.6
    """How far the source is noised, as a fraction of the sampler's steps: at 1 nothing of it is left."""


class SDEdit(Method):
    """The source, noised to the timestep that `strength` asks for, and from there DDIM's g = z_t - z_t' with the target's prompt.

    The N steps of the run are the last of N / strength.
    """

    defaults = {"algo.guidance_scale": 7.5, "steps": 30, "particles": 1}
    requires = {**DDIM.requires, "rep.init": "source", "rep.init_std": None}
    edits = True
    any_t = False
    Settings = SDEditSettings

    @classmethod
    def check(cls, settings, require):
        require(
            0 < settings.strength <= 1,
            f"--algo.sdedit.strength {settings.strength}: a fraction above 0, up to 1, is needed",
        )

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.steps, self.scheduler = steps, prior.ddim_scheduler(round(steps / self.settings.strength))

    def timesteps(self):
        return self.scheduler.timesteps[-self.steps :]

    def gradient(self, z, t, progress):
        z_t = z if progress else self.prior.add_noise(z, self.particles.noise_like(z), t)
        return z - z_t + DDIM.gradient(self, z_t, t, progress)

    def points_at(self, z, t, gradient):
        return z - gradient
