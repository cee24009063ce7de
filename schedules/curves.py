"""Curves for timesteps and weights, given by coefficients or by points.

i is the step, 0 … N-1, float64; x = i/(N-1), from 0 at the first step to 1 at the last. Points are step, value, step,
value, …. If all steps are at most 1, they are values of x. The last value holds to the end.
"""

import numpy as np
import torch

from errors import InputError


def timesteps(numbers, T: int) -> torch.Tensor:
    """Fractions of T (if all numbers are at most 1; 1 is the last timestep) or timesteps → whole numbers, float64.

    They stay float64 so that values that are not finite or outside [0, T) can be refused later.
    """
    numbers = torch.as_tensor(numbers, dtype=torch.float64)
    return (numbers * T).round().clamp(max=T - 1) if (numbers <= 1).all() else numbers.round()


def progress(i: torch.Tensor, steps: int) -> torch.Tensor:
    """x; 0 if the run has one step."""
    return i / max(1, steps - 1)


def polynomial(coefficients: tuple[float, ...], i: torch.Tensor, steps: int) -> torch.Tensor:
    """Σ c_k x^k."""
    x = progress(i, steps)
    return sum(c * x**k for k, c in enumerate(coefficients))


def split(points: tuple[float, ...], i: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """→ i or x, the points' positions on that axis, and their values, all float64."""
    at, values = torch.tensor(points, dtype=torch.float64).view(-1, 2).T.contiguous()
    return (progress(i, steps) if at[-1] <= 1 else i), at, values


def piecewise_linear(points: tuple[float, ...], i: torch.Tensor, steps: int) -> torch.Tensor:
    """A straight line from each point to the next."""
    i, at, values = split(points, i, steps)
    return torch.from_numpy(np.interp(i, at, values))


def stepping(points: tuple[float, ...], i: torch.Tensor, steps: int) -> torch.Tensor:
    """The value of the last point at or before i."""
    i, at, values = split(points, i, steps)
    return values[torch.searchsorted(at, i, right=True) - 1]


def validate_points(flag: str, points: tuple[float, ...], steps: int, timesteps: bool = False) -> None:
    """Raises InputError unless they are step, value, step, value, … with steps that rise from 0 and end within the run.

    timesteps: whether the values are timesteps. Of these, as of the steps, either all or none must be fractions.
    """
    at = points[::2]
    if len(points) % 2:
        raise InputError(f"{flag}: {len(points)} numbers; pairs of a step and a value are needed")
    if points and (at[0] != 0 or list(at) != sorted(set(at)) or at[-1] > max(1, steps)):
        raise InputError(f"{flag}: steps {at}; they must rise from 0 and end within --steps {steps}, or at 1")
    for values in (at, points[1::2] if timesteps else ()):
        if any(0 < value < 1 for value in values) and max(values) > 1:
            raise InputError(f"{flag}: {values}; all must be fractions up to 1, or none")
