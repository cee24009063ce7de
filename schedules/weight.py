"""Weights w of the gradient: functions (t, i, schedule) → (B,) float64 on the CPU, of the timestep t or of the step i.

t         long (B,)
i         the step of each t, float64 (B,)
schedule  the Schedule: schedule.steps is N, config the settings, prior.alphas_cumprod ᾱ (T,) float64
"""

import torch

from errors import InputError
from schedules import curves


def constant(t, i, schedule):
    """w = 1."""
    return torch.ones_like(i)


def dreamfusion(t, i, schedule):
    """w = 1 - ᾱ_t, the paper's σ_t². Poole et al. 2022, arXiv 2209.14988."""
    return 1 - schedule.prior.alphas_cumprod[t]


def fantasia3d(t, i, schedule):
    """w = √ᾱ_t (1-ᾱ_t), smaller at both ends. Chen et al. 2023, arXiv 2303.13873."""
    a = schedule.prior.alphas_cumprod[t]
    return a.sqrt() * (1 - a)


def ism(t, i, schedule):
    """w = √((1-ᾱ_t)/ᾱ_t), which turns a difference of noises into one of clean latents. Liang et al. 2023, arXiv
    2311.11284."""
    a = schedule.prior.alphas_cumprod[t]
    return ((1 - a) / a).sqrt()


def rfds(t, i, schedule):
    """w = 1 + √((1-ᾱ_t)/ᾱ_t); SDS with this weight is RFDS. Yang et al. 2024, arXiv 2406.03293."""
    return 1 + ism(t, i, schedule)


def ddim(t, i, schedule):
    """w_i = λ_{t_i} - λ_{t_{i+1}}, at the last step λ_{t_i}, with λ = √((1-ᾱ)/ᾱ): the length of a DDIM step. Needs
    falling timesteps that are not random. Kulikov et al. 2024, arXiv 2412.08629; Yan et al. 2024, arXiv 2405.10988."""
    if schedule.random:
        raise InputError(
            f"--schedule.weight ddim: timesteps that are not random are needed, not {schedule.config.timestep}"
        )
    following = (i.long() + 1).clamp(max=schedule.steps - 1)
    below = ism(schedule.bounds[0][following], i, schedule)
    return ism(t, i, schedule) - torch.where(i < schedule.steps - 1, below, 0)


def dreamtime(t, i, schedule):
    """w = W(t)/max W. In the paper, W(t) is not a weight but the share of the run at t. Huang et al. 2023,
    dreamtime.py."""
    return schedule.dreamtime.W[t]


def snr(t, i, schedule):
    """w = min(SNR, γ)/SNR, SNR = ᾱ_t/(1-ᾱ_t): 1 if SNR ≤ γ, else γ/SNR. Min-SNR, Hang et al. 2023, arXiv
    2303.09556."""
    a = schedule.prior.alphas_cumprod[t]
    return (schedule.config.snr_gamma * (1 - a) / a).clamp(max=1)


def linear(t, i, schedule):
    """Linear from a at the first step to b at the last: --schedule.weight-ends a b."""
    a, b = schedule.config.weight_ends
    return a + (b - a) * curves.progress(i, schedule.steps)


def polynomial(t, i, schedule):
    """Σ c_k x^k, x = i/(N-1), with --schedule.weight-coefficients c_0 c_1 …."""
    return curves.polynomial(schedule.config.weight_coefficients, i, schedule.steps)


def piecewise_linear(t, i, schedule):
    """Linear between the points of --schedule.weight-points."""
    return curves.piecewise_linear(schedule.config.weight_points, i, schedule.steps)


def stepping(t, i, schedule):
    """Piecewise constant: from each point of --schedule.weight-points on, its w."""
    return curves.stepping(schedule.config.weight_points, i, schedule.steps)


WEIGHTS = {
    function.__name__: function
    for function in (
        constant,
        dreamfusion,
        fantasia3d,
        ism,
        rfds,
        ddim,
        dreamtime,
        snr,
        linear,
        polynomial,
        piecewise_linear,
        stepping,
    )
}
