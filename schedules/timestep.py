"""Timesteps over a run: functions (i, run) → t for all steps at once.

i      the steps 0 … N-1, float64 (N,)
run    the Schedule: run.steps is N, run.t_min and run.t_max are timesteps, both included, run.config the settings
t      float64 (N,), rounded by Schedule to the nearest timestep, one for all particles; or a pair (low, high) of such: each
       particle draws from U{low_i … high_i}, both included

Those in RANGED keep between t_min and t_max, and but for the random ones never rise; the others are given by their own settings.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from errors import InputError
from schedules import curves


def uniform(i, run):
    """U{t_min … t_max} at every step. DreamFusion, Poole et al. 2022, arXiv 2209.14988."""
    return i * 0 + run.t_min, i * 0 + run.t_max


def linear(i, run):
    """From t_max at the first step down to t_min at the last in a straight line."""
    return run.t_max - (run.t_max - run.t_min) * i / max(1, run.steps - 1)


def hifa(i, run):
    """t_max - (t_max - t_min) √(i/N): quickly away from pure noise, long in the details. Zhu et al. 2023, arXiv 2305.18766."""
    return run.t_max - (run.t_max - run.t_min) * (i / run.steps) ** 0.5


def dreamtime(i, run):
    """The t whose Σ_{j ≥ t} W(j) is nearest to i/N, for Σ W = 1: each t gets its due. Huang et al. 2023, dreamtime.py."""
    W = run.dreamtime[2][run.t_min : run.t_max + 1]
    tail = W.flip(0).cumsum(0) / W.sum()  # from t = t_max downwards
    nearer_to_the_next = (tail[1:] + tail[:-1]) / 2
    return run.t_max - torch.searchsorted(nearer_to_the_next, i / run.steps).double()


@dataclass
class RandomDecaySettings:
    curve: Literal["step", "linear", "exponential"] = "step"
    """How the range falls: at once, in a straight line, or by the same factor at each step."""
    t_min_end: float | None = None
    """Where t_min arrives, a fraction of T or a timestep as it is. None: it stays."""
    t_max_end: float | None = None
    """Where t_max arrives. None: at 0.5 as in ProlificDreamer, or where it is if that is lower."""
    at: float = 0.2
    """The part of the run after which the step curve falls (ProlificDreamer: 5,000 steps of 25,000)."""


def random_decay(i, run):
    """U{low_i … high_i}, falling from t_min … t_max. The step curve is ProlificDreamer's, Wang et al. 2023, arXiv 2305.16213.

    Raises InputError where an end would rise, where low would overtake high, and where an exponential should reach 0.
    """
    setting = run.config.random_decay
    low_end, high_end = run.t_min, max(run.t_min, min(run.t_max, run.to_timestep("t-max", 0.5)))
    if setting.t_min_end is not None:
        low_end = run.at_least("random-decay.t-min-end", setting.t_min_end)
    if setting.t_max_end is not None:
        high_end = run.to_timestep("random-decay.t-max-end", setting.t_max_end)
    if not (low_end <= run.t_min and low_end <= high_end <= run.t_max):
        raise InputError(
            f"--schedule.random-decay: from {run.t_min} … {run.t_max} the timesteps can not fall to "
            f"{low_end} … {high_end}; t_min_end ≤ t_min and t_min_end ≤ t_max_end ≤ t_max are needed"
        )
    x = curves.progress(i, run.steps)

    def fall(start, end):
        if setting.curve == "step" or start == end:
            return start + (end - start) * (x >= setting.at)
        if setting.curve == "linear":
            return start + (end - start) * x
        if end == 0:
            raise InputError(
                f"--schedule.random-decay.curve exponential never falls from {start} to 0; take an end above 0"
            )
        return start * (end / start) ** x

    return fall(run.t_min, low_end), fall(run.t_max, high_end)


def constant(i, run):
    """--schedule.t at every step."""
    return i * 0 + run.to_timestep("t", run.config.t)


def polynomial(i, run):
    """Σ c_k x^k, x = i/(N-1), with --schedule.timestep-coefficients c_0 c_1 …."""
    return curves.timesteps(curves.polynomial(run.config.timestep_coefficients, i, run.steps), run.T)


def piecewise_linear(i, run):
    """Straight lines between the points of --schedule.timestep-points."""
    return curves.timesteps(curves.piecewise_linear(run.config.timestep_points, i, run.steps), run.T)


def stepping(i, run):
    """From each point of --schedule.timestep-points on, its t."""
    return curves.timesteps(curves.stepping(run.config.timestep_points, i, run.steps), run.T)


def ddim(i, run):
    """The timesteps of diffusers' DDIMScheduler on the checkpoint's config. For ddim and sdedit alone."""
    return run.samplers.double()


RANGED = {"uniform": uniform, "linear": linear, "hifa": hifa, "dreamtime": dreamtime, "random_decay": random_decay}
TIMESTEPS = {
    **RANGED,
    "constant": constant,
    "polynomial": polynomial,
    "piecewise_linear": piecewise_linear,
    "stepping": stepping,
    "ddim": ddim,
}
