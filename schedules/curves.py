"""What timesteps and weights share: how their numbers are read, and curves given by coefficients or by points.

i is the step, 0 … N-1, float64; x = i/(N-1), from 0 at the first step to 1 at the last. Points are step, value, step, value, …:
steps that are all at most 1 stand for x, and the last value holds to the end.
"""

import torch


def timesteps(numbers, T):
    """Numbers that are all at most 1 are fractions of T, 1 being its last; others are timesteps. → whole numbers, float64."""
    # Still float64: what is not finite or lies outside [0, T) is refused later, by its value.
    numbers = torch.as_tensor(numbers, dtype=torch.float64)
    return (numbers * T).round().clamp(max=T - 1) if (numbers <= 1).all() else numbers.round()


def progress(i, steps):
    """x; 0 where the run has one step."""
    return i / max(1, steps - 1)


def polynomial(coefficients, i, steps):
    """Σ c_k x^k."""
    x = progress(i, steps)
    return sum(c * x**k for k, c in enumerate(coefficients))


def split(points, i, steps):
    """→ i or x, and the points' places on that axis and their values, all float64."""
    at, values = torch.tensor(points, dtype=torch.float64).view(-1, 2).T.contiguous()
    return (progress(i, steps) if at[-1] <= 1 else i), at, values


def piecewise_linear(points, i, steps):
    """A straight line from each point to the next."""
    import numpy as np

    i, at, values = split(points, i, steps)
    return torch.from_numpy(np.interp(i, at, values))


def stepping(points, i, steps):
    """The value of the last point that has been reached."""
    i, at, values = split(points, i, steps)
    return values[torch.searchsorted(at, i, right=True) - 1]
