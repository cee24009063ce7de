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
    t_min: float = 0.02
    """Least timestep, as a fraction of T."""
    t_max: float = 0.98
    """Greatest timestep, as a fraction of T."""
    shared_t: bool = False
    """One t for all particles at each step, in place of one each."""


class Schedule:
    """t(step) and w(t) of one run."""

    def __init__(self, config, prior, particles, steps):
        T = len(prior.alphas_cumprod)
        self.t_min, self.t_max = (min(round(fraction * T), T - 1) for fraction in (config.t_min, config.t_max))
        self.steps, self.alphas_cumprod = steps, prior.alphas_cumprod
        self._timestep, self._weight = TIMESTEPS[config.timestep], WEIGHTS[config.weight]
        self._draw = lambda low, high: particles.randint(low, high, shared=config.shared_t)

    def timestep(self, step):
        """t (B,) long, on the CPU."""
        return self._timestep(step / self.steps, self.t_min, self.t_max, self._draw)

    def weight(self, t):
        """w(t) (B,), on the device of t."""
        return self._weight(t, self.alphas_cumprod)
