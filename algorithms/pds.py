"""Posterior Distillation Sampling. Koo et al. 2023, arXiv 2311.13831."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt

from algorithms.dds import delta_noise
from algorithms.method import Method
from errors import InputError
from priors.device import per_row


@dataclass
class PDSSettings:
    num_inference_steps: PositiveInt | None = None
    """S, the number of timesteps, which sets t' = t - T/S. S = T makes PDS a weighted DDS. None: T/2, like the
    authors' 500 of 1000."""
    posterior: Literal["authors", "exact"] = "authors"
    """β_t and α_t of a single training step, although t' is T/S below t (authors), or of the step from t' to t
    (exact)."""


def posterior_coefficients(
    alphas_cumprod: torch.Tensor, t: torch.Tensor, stride: int, posterior: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """ψ(t) and χ(t) of PDS, float64, each (B,).

    The posterior mean μ(z_t; y) = c_0 ẑ_0 + c_1 z_t has c_0 = √ᾱ_t' β_t/(1-ᾱ_t) and c_1 = √α_t (1-ᾱ_t')/(1-ᾱ_t). Its
    variance is σ_t² = (1-ᾱ_t')/(1-ᾱ_t) β_t. The authors' code takes β_t and α_t of a single training step although t'
    is `stride` below t; only this makes ψ > 0. The exact posterior of the step from t' to t has √ᾱ_t' = c_0 + c_1 √ᾱ_t,
    so ψ = 0, and PDS is DDS with the weight χ.
    """
    alphas_cumprod = alphas_cumprod.double()
    a, a_below = alphas_cumprod[t], alphas_cumprod[t - stride]
    alpha = a / (a_below if posterior == "exact" else alphas_cumprod[t - 1])
    beta = 1 - alpha
    sigma = ((1 - a_below) / (1 - a) * beta).sqrt()
    c_0 = a_below.sqrt() * beta / (1 - a)
    c_1 = alpha.sqrt() * (1 - a_below) / (1 - a)
    chi = c_0 * ((1 - a) / a).sqrt() / sigma
    psi = (a_below.sqrt() - c_0 - c_1 * a.sqrt()) / sigma
    if posterior == "exact" or stride == 1:
        psi = torch.zeros_like(psi)  # The sum above is 0 only up to rounding.
    return psi, chi


class PDS(Method):
    """g = ζ(z; y) - ζ(z^src; y^src), the difference of the stochastic latents ζ = (z_t' - μ(z_t; y))/σ_t: an edit.

    The two noises, in z_t and z_t', are the same for source and target, and cancel:

        g = ψ(t) (z - z^src) + χ(t) (ε̂^s(z_t; y, t) - ε̂^s(z^src_t; y^src, t)),

    which is DDS plus an attraction to the source.
    """

    defaults = {"algo.guidance_scale": 100.0, "schedule.weight": "constant"}
    edits = True
    Settings = PDSSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        T = prior.num_train_timesteps
        S = self.settings.num_inference_steps or max(1, T // 2)
        if S > T:
            raise InputError(f"--algo.pds.num-inference-steps {S}: the prior has {T} timesteps")
        self.min_t = self.stride = round(T / S)

    def coefficients(self, t):
        return posterior_coefficients(self.prior.alphas_cumprod, t, self.stride, self.settings.posterior)

    def gradient(self, z, t, particles, progress):
        psi, chi = self.coefficients(t)
        delta = delta_noise(self, z, t, particles)
        return per_row(psi, z) * (z - particles.source) + per_row(chi, z) * delta

    def pseudo_gt(self, z, t, gradient):
        _, chi = self.coefficients(t)
        return super().pseudo_gt(z, t, gradient / per_row(chi, z))  # in units of noise
