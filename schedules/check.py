"""What can be known to be wrong with the settings before the prior is loaded; Schedule refuses the rest."""

import math

from schedules import USERS, ScheduleConfig, uses
from schedules.timestep import RandomDecaySettings


def check(config, steps, require):
    """require(good, message) for a resolved ScheduleConfig and a run of `steps` steps."""
    check_users(config, require)

    def each(flag, numbers, good, needed):
        for number in numbers:
            require(number is None or math.isfinite(number) and good(number), f"--schedule.{flag} {number}: {needed}")

    decay, dreamtime, low, high = config.random_decay, config.dreamtime, config.t_min, config.t_max
    for flag, t in {
        "t": config.t,
        "t-min": low,
        "t-max": high,
        "random-decay.t-min-end": decay.t_min_end,
        "random-decay.t-max-end": decay.t_max_end,
    }.items():
        each(flag, [t], lambda t: t >= 0, "a timestep, or a fraction of T up to 1, is needed")
    same_unit = low is not None and high is not None and (low <= 1) == (high <= 1)
    require(not same_unit or low <= high, f"--schedule.t-min {low} --schedule.t-max {high}: t_min ≤ t_max is needed")
    each("random-decay.at", [decay.at], lambda at: 0 <= at <= 1, "a part of the run from 0 to 1 is needed")
    require(
        decay.curve == "step" or decay.at == RandomDecaySettings.at,
        f"--schedule.random-decay.at is for --schedule.random-decay.curve step, not {decay.curve}",
    )
    for name in ("m1", "m2"):
        each(f"dreamtime.{name}", [getattr(dreamtime, name)], lambda m: m >= 0, "0 or more is needed")
    for name in ("s1", "s2"):
        each(f"dreamtime.{name}", [getattr(dreamtime, name)], lambda s: s > 0, "a number above 0 is needed")
    each("snr-gamma", [config.snr_gamma], lambda gamma: gamma > 0, "a number above 0 is needed")
    ends = config.weight_ends
    require(
        len(ends) in (0, 2),
        f"--schedule.weight-ends: {len(ends)} are given, 2 are needed, the first and the last weight",
    )
    each("weight-ends", ends, lambda w: w >= 0, "weights of 0 or more are needed")
    for kind in ("timestep", "weight"):
        each(
            f"{kind}-coefficients", getattr(config, f"{kind}_coefficients"), lambda c: True, "finite numbers are needed"
        )
        flag, points = f"{kind}-points", getattr(config, f"{kind}_points")
        each(flag, points, lambda number: number >= 0, "numbers of 0 or more are needed")
        if points:
            check_points(f"--schedule.{flag}", points, steps, require)
            check_unit(f"--schedule.{flag}: steps", points[::2], require)
    check_unit("--schedule.timestep-points: timesteps", config.timestep_points[1::2], require)


def check_users(config, require):
    """Settings that a chosen schedule can't do without are there, and those of others are not."""
    for setting, (timesteps, weights) in USERS.items():
        flag, value = f"--schedule.{setting.replace('_', '-')}", getattr(config, setting)
        if uses(setting, config.timestep, config.weight):
            user = f"timestep {config.timestep}" if timesteps else f"weight {config.weight}"
            require(value not in (None, ()), f"--schedule.{user} needs {flag}")
        else:
            chosen = config.timestep if timesteps else config.weight
            users = [
                f"{kind} {' or '.join(names)}"
                for kind, names in (("timestep", timesteps), ("weight", weights))
                if names
            ]
            require(
                value == getattr(ScheduleConfig(), setting),
                f"{flag} is for --schedule.{' or '.join(users)}, not {chosen}",
            )


def check_points(flag, points, steps, require):
    """step value step value …, the steps rising from 0 and within the run."""
    require(
        len(points) % 2 == 0, f"{flag}: {len(points)} numbers are given; step and value in turn make an even number"
    )
    at = points[::2]
    require(at[0] == 0, f"{flag}: the first step is {at[0]:g}; 0 is needed")
    for before, after in zip(at, at[1:], strict=False):
        require(before < after, f"{flag}: step {after:g} comes after step {before:g}; steps must rise")
    require(
        at[-1] <= max(1, steps),
        f"{flag}: step {at[-1]:g} lies beyond --steps {steps}; parts of the run, up to 1, fit any",
    )


def check_unit(what, numbers, require):
    """All are fractions, or none but 0 and 1 could be one."""
    fractions = [number for number in numbers if 0 < number < 1]
    require(
        not fractions or max(numbers) <= 1,
        f"{what} {' '.join(f'{number:g}' for number in numbers)}: all must be fractions up to 1, or none",
    )
