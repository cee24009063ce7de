"""SDEdit. Meng et al. 2021, arXiv 2108.01073, with DDIM sampling. No distillation: the yardstick beside the methods that edit."""

from dataclasses import dataclass

from algorithms.ddim import DDIM


@dataclass
class SDEditSettings:
    strength: float = 0.6
    """How far the source is noised, as a fraction of the sampler's steps: at 1 nothing of it is left."""


class SDEdit(DDIM):
    """The source, noised to the timestep that `strength` asks for, and from there DDIM's g = z_t - z_t' with the target's prompt.

    The N steps of the run are the last of N / strength.
    """

    defaults = {"algo.guidance_scale": 7.5, "steps": 30, "particles": 1}
    requires = {**DDIM.requires, "rep.init": "source", "rep.init_std": None}
    edits = True
    Settings = SDEditSettings

    @classmethod
    def check(cls, settings, require):
        require(0 < settings.strength <= 1, f"--algo.sdedit.strength {settings.strength}: a fraction above 0, up to 1, is needed")

    def sampler_steps(self, steps):
        return round(steps / self.settings.strength)

    def gradient(self, z, t, progress):
        if progress:
            return super().gradient(z, t, progress)
        noised = self.prior.add_noise(z, self.particles.noise_like(z), t)
        return z - noised + super().gradient(noised, t, progress)
