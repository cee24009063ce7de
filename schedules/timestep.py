"""Timesteps over a run: functions (i, schedule) → t of all steps at once.

i         the steps 0 … N-1, float64 (N,)
schedule  the Schedule: schedule.steps is N, t_min and t_max are timesteps, both included, config the settings
t         float64 (N,), rounded by Schedule to the nearest timestep, the same for all particles; or a pair (low, high)
          of these: each particle draws from U{low_i … high_i}, both included

Those in RANGED lie between t_min and t_max and, except for the random ones, never rise. The others have their own
settings.
"""

import torch

from errors import InputError
from schedules import curves


def uniform(i, schedule):
    """U{t_min … t_max} at every step. DreamFusion, Poole et al. 2022, arXiv 2209.14988."""
    return torch.full_like(i, schedule.t_min), torch.full_like(i, schedule.t_max)


def linear(i, schedule):
    """From t_max at the first step linearly down to t_min at the last."""
    return schedule.t_max - (schedule.t_max - schedule.t_min) * i / max(1, schedule.steps - 1)


def hifa(i, schedule):
    """t_max - (t_max - t_min) √(i/N): few steps at high noise, many at low noise. Zhu et al. 2023, arXiv 2305.18766."""
    return schedule.t_max - (schedule.t_max - schedule.t_min) * (i / schedule.steps) ** 0.5


def dreamtime(i, schedule):
    """The t whose Σ_{j ≥ t} W(j) is nearest to i/N, with Σ W = 1: t gets the share W(t) of the run. Huang et al. 2023,
    dreamtime.py."""
    W = schedule.dreamtime.W[schedule.t_min : schedule.t_max + 1]
    tail = W.flip(0).cumsum(0) / W.sum()  # from t = t_max downwards
    midpoints = (tail[1:] + tail[:-1]) / 2
    return schedule.t_max - torch.searchsorted(midpoints, i / schedule.steps).double()


def random_decay(i, schedule):
    """U{low_i … high_i}, falling from t_min … t_max. The step curve is ProlificDreamer's, Wang et al. 2023, arXiv
    2305.16213.

    Raises InputError if low or high would rise, if low would exceed high, or if an exponential would have to reach 0.
    """
    setting = schedule.config.random_decay
    low_end, high_end = schedule.t_min, max(schedule.t_min, min(schedule.t_max, schedule.to_timestep("t-max", 0.5)))
    if setting.t_min_end is not None:
        low_end = schedule.at_least("random-decay.t-min-end", setting.t_min_end)
    if setting.t_max_end is not None:
        high_end = schedule.to_timestep("random-decay.t-max-end", setting.t_max_end)
    if not (low_end <= schedule.t_min and low_end <= high_end <= schedule.t_max):
        raise InputError(
            f"--schedule.random-decay: from {schedule.t_min} … {schedule.t_max} the timesteps cannot fall to "
            f"{low_end} … {high_end}; t_min_end ≤ t_min and t_min_end ≤ t_max_end ≤ t_max are needed"
        )
    x = curves.progress(i, schedule.steps)

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

    return fall(schedule.t_min, low_end), fall(schedule.t_max, high_end)


def constant(i, schedule):
    """--schedule.t at every step."""
    return torch.full_like(i, schedule.to_timestep("t", schedule.config.t))


def polynomial(i, schedule):
    """Σ c_k x^k, x = i/(N-1), with --schedule.timestep-coefficients c_0 c_1 …."""
    return curves.timesteps(curves.polynomial(schedule.config.timestep_coefficients, i, schedule.steps), schedule.T)


def piecewise_linear(i, schedule):
    """Linear between the points of --schedule.timestep-points."""
    return curves.timesteps(curves.piecewise_linear(schedule.config.timestep_points, i, schedule.steps), schedule.T)


def stepping(i, schedule):
    """Piecewise constant: from each point of --schedule.timestep-points on, its t."""
    return curves.timesteps(curves.stepping(schedule.config.timestep_points, i, schedule.steps), schedule.T)


def ddim(i, schedule):
    """The timesteps of diffusers' DDIMScheduler with the checkpoint's config. Only for ddim and sdedit."""
    return schedule.sampler_timesteps.double()


RANGED = {function.__name__: function for function in (uniform, linear, hifa, dreamtime, random_decay)}
TIMESTEPS = RANGED | {
    function.__name__: function for function in (constant, polynomial, piecewise_linear, stepping, ddim)
}
