"""DreamTime: how much time each timestep deserves. Huang et al. 2023, arXiv 2306.12422."""

from dataclasses import dataclass

import torch

from errors import InputError


@dataclass
class DreamTimeSettings:
    """m and s up to 1 are fractions of T, above it timesteps. m1 = m2 with s1 = s2 makes W_p one bell."""

    m1: float = 0.8
    """Above it W_p falls."""
    s1: float = 0.3
    """Deviation of the bell that it falls by."""
    m2: float = 0.5
    """Below it W_p falls. Between the two it is 1."""
    s2: float = 0.1
    """Deviation of the bell that it falls by."""


def densities(run):
    """W_d, W_p and W = W_d W_p at all timesteps, each (T,) float64; W is scaled so that its greatest value in t_min … t_max is 1.

    W_d = √((1-ᾱ_t)/ᾱ_t) grows with t: the more noise, the more there is to be decided. W_p spends the time on content, not on
    the coarsest and finest steps. Raises InputError where m2 > m1, or where W is 0 or not finite in all of t_min … t_max.
    """
    setting = run.config.dreamtime
    m_1, s_1, m_2, s_2 = (v * run.T if v <= 1 else v for v in (setting.m1, setting.s1, setting.m2, setting.s2))
    if m_2 > m_1:
        raise InputError(
            f"--schedule.dreamtime.m2 {setting.m2:g} --schedule.dreamtime.m1 {setting.m1:g}: m2 ≤ m1 is needed"
        )
    t, a = torch.arange(run.T, dtype=torch.float64), run.prior.alphas_cumprod
    W_d = ((1 - a) / a).sqrt()
    above, below = (t - m_1).clamp(min=0), (m_2 - t).clamp(min=0)
    W_p = torch.exp(-(above**2) / (2 * s_1**2) - below**2 / (2 * s_2**2))
    W = W_d * W_p
    greatest = W[run.t_min : run.t_max + 1].max()
    if not 0 < greatest < float("inf"):
        raise InputError(
            f"--schedule.dreamtime: W is {greatest:g} from t = {run.t_min} to {run.t_max}; "
            "other m, larger s or another range are needed"
        )
    return W_d, W_p, W / greatest
