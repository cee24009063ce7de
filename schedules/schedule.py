"""Timesteps and weights of one run.

To add a schedule, write a function in timestep.py or weight.py and add it to the table at the end of that file. Its
settings are fields of ScheduleConfig, each with when() it is used.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch

from algorithms.particles import Particles
from errors import InputError
from priors.prior import Prior
from priors.settings import Finite, Fraction, NonNegative, Positive, when
from schedules import curves
from schedules.dreamtime import DreamTimeSettings, densities
from schedules.timestep import RANGED, TIMESTEPS
from schedules.weight import WEIGHTS

Timestep = NonNegative | None  # a fraction of T up to 1, a timestep above
POINTS = ["piecewise_linear", "stepping"]  # timesteps and weights that go through given points


@dataclass
class RandomDecaySettings:
    curve: Literal["step", "linear", "exponential"] = "step"
    """How the range falls: at once, linearly, or by the same factor at each step."""
    t_min_end: Timestep = None
    """t_min at the end, a fraction of T or a timestep. None: it is constant."""
    t_max_end: Timestep = None
    """t_max at the end. None: 0.5 as in ProlificDreamer, or t_max if that is lower."""
    at: Annotated[Fraction, when(curve="step")] = 0.2
    """The fraction of the run after which the step curve falls (ProlificDreamer: 5,000 steps of 25,000)."""


@dataclass
class ScheduleConfig:
    timestep: Literal[tuple(TIMESTEPS)] | None = None
    """How t changes over the run. None: the method's or the checkpoint's default, or uniform."""
    weight: Literal[tuple(WEIGHTS)] | None = None
    """The factor on the gradient. With dreamtime timesteps, the weight dreamtime counts W twice. None: the method's
    default."""
    t_min: Annotated[Timestep, when(timestep=list(RANGED))] = None
    """Least timestep: up to 1 a fraction of T, above 1 a timestep. None: the method's or the checkpoint's default, or
    0.02."""
    t_max: Annotated[Timestep, when(timestep=list(RANGED))] = None
    """Greatest timestep, likewise; 1 is the last. None: the method's or the checkpoint's default, or the timestep that
    is as noisy as 0.98 T in Stable Diffusion."""
    shared_t: bool = False
    """Draw one t for all particles at each step, instead of one per particle, if t is random."""
    t: Annotated[Timestep, when(timestep="constant", needed=True)] = None
    """The timestep of --schedule.timestep constant, in the units of t_min."""
    timestep_points: Annotated[tuple[NonNegative, ...], when(timestep=POINTS, needed=True)] = ()
    """step t step t … for piecewise_linear and stepping. If all steps are at most 1, they are fractions of the run; if
    all t are at most 1, fractions of T."""
    timestep_coefficients: Annotated[tuple[Finite, ...], when(timestep="polynomial", needed=True)] = ()
    """c_0 c_1 … for polynomial: t = Σ c_k x^k, x from 0 to 1 over the run; fractions of T if no t is above 1."""
    weight_points: Annotated[tuple[NonNegative, ...], when(weight=POINTS, needed=True)] = ()
    """step w step w … for the weights piecewise_linear and stepping."""
    weight_coefficients: Annotated[tuple[Finite, ...], when(weight="polynomial", needed=True)] = ()
    """c_0 c_1 … for the weight polynomial."""
    weight_ends: Annotated[tuple[NonNegative, NonNegative] | None, when(weight="linear", needed=True)] = None
    """a b for the weight linear: w at the first and at the last step."""
    snr_gamma: Annotated[Positive, when(weight="snr")] = 5.0
    """γ of the weight snr."""
    random_decay: Annotated[RandomDecaySettings, when(timestep="random_decay")] = field(
        default_factory=RandomDecaySettings
    )
    dreamtime: Annotated[DreamTimeSettings, when(timestep="dreamtime", weight="dreamtime")] = field(
        default_factory=DreamTimeSettings
    )


class Schedule:
    """t and w for a run of `steps` steps.

    min_t              the least timestep that the method can be called with; t_min is raised to it
    sampler_timesteps  the timesteps (N,) of a method that is a sampler, or None

    bounds     the least and the greatest t of each step, long (N,) each, equal if t is not random
    random     whether each particle draws its t between them
    note       a line for the user if t_min was raised, or None
    dreamtime  its Densities if timesteps or weight need them, else None

    Raises InputError for settings that do not fit the prior, t outside [min_t, T), and weights that are negative (they
    would lead away from the prompt) or not finite.
    """

    note = None

    def __init__(
        self,
        config: ScheduleConfig,
        prior: Prior,
        steps: int,
        min_t: int = 0,
        sampler_timesteps: torch.Tensor | None = None,
    ):
        self.config, self.prior, self.steps, self.min_t = config, prior, steps, min_t
        self.sampler_timesteps, self.T = sampler_timesteps, prior.num_train_timesteps
        self.last = self.T - 1 if sampler_timesteps is not None else prior.noising.max_t
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

    def range(self) -> tuple[int, int]:
        """t_min and t_max as timesteps; all of them for schedules without such settings."""
        low, high = self.config.t_min, self.config.t_max
        t_min = self.min_t if low is None else self.at_least("t-min", low)
        if high is not None:
            t_max = min(self.last, self.to_timestep("t-max", high))
        else:
            t_max = self.prior.noising.default_t_max if self.config.timestep in RANGED else self.last
        if t_max < self.min_t:
            raise InputError(
                f"the greatest timestep is {t_max}; the method needs {self.min_t} at least (--schedule.t-max)"
            )
        if t_min > t_max:
            raise InputError(f"--schedule.t-min is timestep {t_min}, --schedule.t-max {t_max}; t_min ≤ t_max is needed")
        return t_min, t_max

    def at_least(self, flag: str, number: float) -> int:
        """The timestep of a setting; if the method's least is greater, that one, with a note."""
        t = self.to_timestep(flag, number)
        if t < self.min_t:
            self.note = f"timesteps start at {self.min_t}, the method's least, not at --schedule.{flag} {number:g}"
        return max(self.min_t, t)

    def to_timestep(self, flag: str, number: float) -> int:
        """A setting that is a fraction of T or a timestep → the timestep."""
        t = int(curves.timesteps(number, self.T))
        if t >= self.T:
            raise InputError(f"--schedule.{flag} {number:g}: the prior has timesteps 0 to {self.T - 1}")
        return t

    def whole(self, t: torch.Tensor) -> torch.Tensor:
        """t (N,) float64 → long."""
        t = t.round()
        for step in (~((t >= self.min_t) & (t <= self.last))).nonzero()[:1, 0].tolist():
            raise InputError(
                f"--schedule.timestep {self.config.timestep}: t = {t[step]:g} at step {step}; "
                f"timesteps from {self.min_t} to {self.last} are needed"
            )
        return t.long()

    def timestep(self, step: int, particles: Particles) -> torch.Tensor:
        """t (B,) long, on the CPU, for the particles of that step."""
        low, high = (int(end[step]) for end in self.bounds)
        if self.random:
            return particles.randint(low, high, shared=self.config.shared_t)
        return self.bounds[0][step].repeat(len(particles))

    def weights(self, t: torch.Tensor) -> torch.Tensor:
        """w (N,) of the whole run, for one timestep per step, t (N,)."""
        return WEIGHTS[self.config.weight](t, self.i, self)

    def weight(self, t: torch.Tensor, step: int) -> torch.Tensor:
        """w (B,) float64, on the CPU, for timesteps t (B,) at that step."""
        return WEIGHTS[self.config.weight](t, self.i[step].expand(len(t)), self)
