"""Climbing from clean latents to noisy ones by DDIM inversion, as ISM and SDI do."""

import torch

from priors.prior import per_row


def climb(prior, z, start, end, stop, predict, added=None):
    """DDIM inversion of latents z (B, C, h, w) from timesteps start (B,) to end (B,) → the latents at end.

    stop(k)           the k-th timesteps above start (B,); the last step is shortened to land on end
    predict(z_a, a)   the noise prediction that a step from a follows
    added(k, a, b)    what is added after the step from a to b, if anything

    Rows climb side by side, and one that has arrived stays. Both ends live on the CPU, so no GPU is waited for.
    """
    a, k = start, 0
    while (a < end).any():
        b = torch.minimum(stop(k + 1), end)
        above = prior.ddim_step(z, predict(z, a), a, b)
        if added:
            above = above + added(k, a, b)
        z = torch.where(per_row(b > a, z) > 0, above, z)
        a, k = b, k + 1
    return z
