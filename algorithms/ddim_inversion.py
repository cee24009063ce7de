"""DDIM inversion, the deterministic path from clean to noisy latents; shared by ISM and SDI."""

from collections.abc import Callable

import torch

from priors.device import per_row
from priors.prior import Prior


def ddim_invert(
    prior: Prior,
    z: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    timestep: Callable,
    predict: Callable,
    extra_noise: Callable | None = None,
) -> torch.Tensor:
    """Latents z (B, C, h, w) at timesteps start (B,) → the latents at timesteps end (B,), both on the CPU.

    timestep(k)           the k-th timesteps after start (B,); the last step is shortened to end at `end`
    predict(z_a, a)       the noise prediction for a step from a
    extra_noise(k, a, b)  noise that is added after the step from a to b

    All rows advance together; rows that have reached their end stay as they are.
    """
    a, k = start, 0
    while (a < end).any():
        b = torch.minimum(timestep(k + 1), end)
        z_b = prior.ddim_step(z, predict(z, a), a, b)
        if extra_noise:
            z_b = z_b + extra_noise(k, a, b)
        z = torch.where(per_row(b > a, z) > 0, z_b, z)
        a, k = b, k + 1
    return z
