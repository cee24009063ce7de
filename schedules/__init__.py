"""When in the diffusion a step looks at the picture, and how much that counts."""

from dataclasses import dataclass
from typing import Literal

from schedules.timestep import TIMESTEPS
from schedules.weight import WEIGHTS


@dataclass
class ScheduleConfig:
    timestep: Literal[tuple(TIMESTEPS)] | None = None
    """How t moves over the run. None: uniform, unless the checkpoint knows better."""
    weight: Literal[tuple(WEIGHTS)] | None = None
    """w(t), the factor on the gradient. None: the method's own."""
    t_min: float | None = None
    """Least timestep, as a fraction of T. None: 0.02, unless the method or the checkpoint knows better."""
    t_max: float | None = None
    """Greatest timestep, as a fraction of T. None: 0.98, likewise."""
    shared_t: bool = False
    """One t for all particles at each step, in place of one each."""


class Schedule:
    """t(step) and w(t) of one run."""

    def __init__(self, config, prior, particles, steps):
        T = len(prior.alphas_cumprod)
        self.t_min, self.t_max = (min(round(fraction * T), T - 1) for fraction in (config.t_min, config.t_max))
        self.steps, self.alphas_cumprod = steps, prior.alphas_cumprod
        self.particles, self.config = particles, config

    def timestep(self, step):
        """t (B,) long, on the CPU."""

        def draw(low, high):
            return self.particles.randint(low, high, shared=self.config.shared_t)

        return TIMESTEPS[self.config.timestep](step / self.steps, self.t_min, self.t_max, draw)

    def weight(self, t):
        """w(t) (B,), on the device of t."""
        return WEIGHTS[self.config.weight](t, self.alphas_cumprod)
