"""DreamTime: each timestep gets a share of the run. Huang et al. 2023, arXiv 2306.12422."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from errors import InputError
from priors.settings import NonNegative, Positive


@dataclass
class DreamTimeSettings:
    """m and s up to 1 are fractions of T, above 1 timesteps. With m1 = m2 and s1 = s2, W_p is a single bell."""

    m1: NonNegative = 0.8
    """W_p decays above m1."""
    s1: Positive = 0.3
    """Standard deviation of the decay above m1."""
    m2: NonNegative = 0.5
    """W_p decays below m2. Between m2 and m1 it is 1."""
    s2: Positive = 0.1
    """Standard deviation of the decay below m2."""


class Densities(NamedTuple):
    """At all timesteps, each (T,) float64: W = W_d W_p, scaled so that its greatest value in t_min … t_max is 1."""

    W_d: torch.Tensor
    W_p: torch.Tensor
    W: torch.Tensor


def densities(schedule) -> Densities:
    """The shares of a Schedule's timesteps.

    W_d = √((1-ᾱ_t)/ᾱ_t) grows with t: steps at high noise decide more. W_p favours the timesteps that form content
    over the coarsest and finest ones. Raises InputError if m2 > m1, or if W is 0 or not finite in all of
    t_min … t_max.
    """
    setting = schedule.config.dreamtime
    m_1, s_1, m_2, s_2 = (v * schedule.T if v <= 1 else v for v in (setting.m1, setting.s1, setting.m2, setting.s2))
    if m_2 > m_1:
        raise InputError(
            f"--schedule.dreamtime.m2 {setting.m2:g} --schedule.dreamtime.m1 {setting.m1:g}: m2 ≤ m1 is needed"
        )
    t, a = torch.arange(schedule.T, dtype=torch.float64), schedule.prior.alphas_cumprod
    W_d = ((1 - a) / a).sqrt()
    above, below = (t - m_1).clamp(min=0), (m_2 - t).clamp(min=0)
    W_p = torch.exp(-(above**2) / (2 * s_1**2) - below**2 / (2 * s_2**2))
    W = W_d * W_p
    greatest = W[schedule.t_min : schedule.t_max + 1].max()
    if not 0 < greatest < float("inf"):
        raise InputError(
            f"--schedule.dreamtime: W is {greatest:g} from t = {schedule.t_min} to {schedule.t_max}; "
            "other m, larger s or another range are needed"
        )
    return Densities(W_d, W_p, W / greatest)
