"""When in the diffusion a step looks at the picture, and how much that counts."""

from dataclasses import dataclass
from typing import Literal

from prior import InputError
from schedules.timestep import TIMESTEPS
from schedules.weight import WEIGHTS


@dataclass
class ScheduleConfig:
    timestep: Literal[tuple(TIMESTEPS)] | None = None
    """How t moves over the run. None: uniform, unless the method or the checkpoint knows better."""
    weight: Literal[tuple(WEIGHTS)] | None = None
    """w(t), the factor on the gradient. None: the method's own."""
    t_min: float | None = None
    """Least timestep, as a fraction of T. None: 0.02, unless the method or the checkpoint knows better."""
    t_max: float | None = None
    """Greatest timestep, as a fraction of T. None: 0.98, likewise."""
    shared_t: bool = False
    """One t for all particles at each step, in place of one each."""


class Schedule:
    """t(step) and w(t) of one run. least_t: the least timestep that the method can be asked for; t_min begins there."""

    def __init__(self, config, prior, particles, steps, least_t=0):
        T = len(prior.alphas_cumprod)
        self.t_min, self.t_max = (min(round(fraction * T), T - 1) for fraction in (config.t_min, config.t_max))
        self.t_min = max(self.t_min, least_t)
        if self.t_min > self.t_max:
            raise InputError(f"--schedule.t-max {config.t_max} is timestep {self.t_max}; the method needs {least_t} at least")
        self.steps, self.prior, self.particles, self.config = steps, prior, particles, config

    def draw(self, low, high):
        return self.particles.randint(low, high, shared=self.config.shared_t)

    def all(self, t):
        import torch

        return torch.full((len(self.particles),), t)

    def timestep(self, step):
        """t (B,) long, on the CPU."""
        return TIMESTEPS[self.config.timestep](step, self)

    def weight(self, t):
        """w(t) (B,), on the CPU."""
        return WEIGHTS[self.config.weight](t, self.prior.alphas_cumprod)
