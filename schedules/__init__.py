"""When in the diffusion a step looks at the picture, and how much that counts.

A new one is a function in timestep.py or weight.py and a name in the table below it; its settings are fields here and a line in
USERS.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch

from errors import InputError
from schedules import curves
from schedules.dreamtime import DreamTimeSettings, densities
from schedules.timestep import RANGED, TIMESTEPS, RandomDecaySettings
from schedules.weight import WEIGHTS


@dataclass
class ScheduleConfig:
    timestep: Literal[tuple(TIMESTEPS)] | None = None
    """How t moves over the run. None: uniform, unless the method or the checkpoint knows better."""
    weight: Literal[tuple(WEIGHTS)] | None = None
    """The factor on the gradient. dreamtime beside the timesteps of that name counts W twice. None: the method's own."""
    t_min: float | None = None
    """Least timestep: up to 1 a fraction of T, above 1 a timestep. None: 0.02, unless method or checkpoint know better."""
    t_max: float | None = None
    """Greatest timestep, likewise; 1 is T-1. None: 0.98, likewise."""
    shared_t: bool = False
    """One t for all particles at each step, in place of one each, where t is random."""
    t: float | None = None
    """The timestep of --schedule.timestep constant, given as t_min is."""
    timestep_points: tuple[float, ...] = ()
    """step t step t … for piecewise_linear and stepping. Steps all up to 1 are parts of the run, t all up to 1 fractions of T."""
    timestep_coefficients: tuple[float, ...] = ()
    """c_0 c_1 … for polynomial: t = Σ c_k x^k, x from 0 to 1 over the run; fractions of T if no t is above 1."""
    weight_points: tuple[float, ...] = ()
    """step w step w … for the weights piecewise_linear and stepping."""
    weight_coefficients: tuple[float, ...] = ()
    """c_0 c_1 … for the weight polynomial."""
    weight_ends: tuple[float, ...] = ()
    """a b for the weight linear: w at the first step, and at the last."""
    snr_gamma: float = 5.0
    """γ of the weight snr."""
    random_decay: RandomDecaySettings = field(default_factory=RandomDecaySettings)
    dreamtime: DreamTimeSettings = field(default_factory=DreamTimeSettings)


# Whose settings they are: timesteps, weights. One that is not here is everybody's.
USERS = {
    "t": (("constant",), ()),
    "timestep_points": (("piecewise_linear", "stepping"), ()),
    "timestep_coefficients": (("polynomial",), ()),
    "weight_points": ((), ("piecewise_linear", "stepping")),
    "weight_coefficients": ((), ("polynomial",)),
    "weight_ends": ((), ("linear",)),
    "snr_gamma": ((), ("snr",)),
    "random_decay": (("random_decay",), ()),
    "dreamtime": (("dreamtime",), ("dreamtime",)),
    "t_min": (tuple(RANGED), ()),
    "t_max": (tuple(RANGED), ()),
}


def uses(setting, timestep, weight):
    """Whether these two schedules look at that field of ScheduleConfig."""
    timesteps, weights = USERS.get(setting, ((timestep,), ()))
    return timestep in timesteps or weight in weights


class Schedule:
    """t and w of one run of `steps` steps.

    least_t  the least timestep that the method can be asked for; t_min begins there
    samplers  the timesteps (N,) of a method that has its own, or None

    bounds   the least and the greatest t of each step, long (N,) each, equal where t is not random
    random   whether each particle draws its t between them
    note     a line for the user where t_min is not what was asked for, or None
    dreamtime  W_d, W_p, W where one of the two asks for them, else None

    Raises InputError for settings that do not fit the prior, t outside [least_t, T), and weights that are negative (they would
    lead away from what is asked) or not finite.
    """

    note = None

    def __init__(self, config, prior, particles, steps, least_t=0, samplers=None):
        self.config, self.prior, self.particles, self.steps, self.least_t = config, prior, particles, steps, least_t
        self.samplers, self.T = samplers, len(prior.alphas_cumprod)
        self.t_min, self.t_max = self.range()
        self.dreamtime = densities(self) if "dreamtime" in (config.timestep, config.weight) else None
        self.i = torch.arange(steps, dtype=torch.float64)
        t = TIMESTEPS[config.timestep](self.i, self)
        self.random = isinstance(t, tuple)
        self.bounds = tuple(self.whole(end) for end in (t if self.random else (t, t)))
        for end in self.bounds:
            w = self.weights(end)
            for step in (~((w >= 0) & w.isfinite())).nonzero()[:1, 0].tolist():
                raise InputError(
                    f"--schedule.weight {config.weight}: w = {w[step]:g} at step {step}, timestep {end[step]}; "
                    "finite weights of 0 or more are needed"
                )

    def range(self):
        """t_min and t_max as timesteps; all that there are for schedules that have no such settings."""
        low, high = self.config.t_min, self.config.t_max
        t_min = self.least_t if low is None else self.at_least("t-min", low)
        t_max = self.T - 1 if high is None else self.to_timestep("t-max", high)
        if t_max < self.least_t:
            raise InputError(f"--schedule.t-max {high:g} is timestep {t_max}; the method needs {self.least_t} at least")
        if t_min > t_max:
            raise InputError(
                f"--schedule.t-min {low:g} --schedule.t-max {high:g}: timesteps {t_min} and {t_max}; "
                "t_min ≤ t_max is needed"
            )
        return t_min, t_max

    def at_least(self, flag, number):
        """The timestep of a setting, or the method's least, and then a note."""
        t = self.to_timestep(flag, number)
        if t < self.least_t:
            self.note = (
                f"timesteps begin at {self.least_t}, the least that the method can be asked for, "
                f"not at --schedule.{flag} {number:g}"
            )
        return max(self.least_t, t)

    def to_timestep(self, flag, number):
        """A setting that is a fraction of T or a timestep → the timestep."""
        t = int(curves.timesteps(number, self.T))
        if t >= self.T:
            raise InputError(f"--schedule.{flag} {number:g}: the prior has timesteps 0 to {self.T - 1}")
        return t

    def whole(self, t):
        """t (N,) float64 → long."""
        t = t.round()
        for step in (~((t >= self.least_t) & (t < self.T))).nonzero()[:1, 0].tolist():
            raise InputError(
                f"--schedule.timestep {self.config.timestep}: t = {t[step]:g} at step {step}; "
                f"timesteps from {self.least_t} to {self.T - 1} are needed"
            )
        return t.long()

    def timestep(self, step):
        """t (B,) long, on the CPU."""
        low, high = (int(end[step]) for end in self.bounds)
        if self.random:
            return self.particles.randint(low, high, shared=self.config.shared_t)
        return self.bounds[0][step].repeat(len(self.particles))

    def weights(self, t):
        """w (N,) of the whole run, of one timestep a step, t (N,)."""
        return WEIGHTS[self.config.weight](t, self.i, self)

    def weight(self, t, step):
        """w (B,) float64, on the CPU, of timesteps t (B,) at that step."""
        return WEIGHTS[self.config.weight](t, self.i[step].expand(len(t)), self)
