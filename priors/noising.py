"""All families' noise schedules in one form: x = α z + σ ε is variance-preserving up to the scale c = √(α² + σ²), so
z_t = x / c = √ᾱ z + √(1-ᾱ) ε with ᾱ = α²/c². Only the network sees x = c z_t.

A DDIM step from ᾱ to ᾱ' is then the Euler step of a flow from σ to σ' (Lipman et al. 2022, arXiv 2210.02747).
"""

import math
from dataclasses import dataclass

import torch

from errors import InputError


@dataclass
class Noising:
    """Over the timesteps 0 … T-1, each (T,), float64:

    alphas_cumprod   ᾱ, falling; 0 where nothing of z is left, which only samplers can start from
    scale            c
    time             the network's time input for t; long if that is t itself
    prediction_type  epsilon, sample, v_prediction or flow

    and, as pairs (a, b) of these, what one quantity is in terms of two others, for an output o of the network:

    noise_from_output  ε̂ = a o + b z_t
    clean_from_output  ẑ_0 = a o + b z_t
    target_from_noise  a ε + b z, the network's training target
    """

    alphas_cumprod: torch.Tensor
    scale: torch.Tensor
    time: torch.Tensor
    prediction_type: str

    def __post_init__(self):
        a, s = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        one, zero = torch.ones_like(a), torch.zeros_like(a)
        # The model output is e ε + b z.
        targets = {"epsilon": (one, zero), "sample": (zero, one), "v_prediction": (a, -s), "flow": (one, -one)}
        e, b = self.target_from_noise = targets[self.prediction_type]
        D = e * a - b * s
        self.noise_from_output, self.clean_from_output = (a / D, -b / D), (-s / D, e / D)
        if self.prediction_type == "epsilon":
            self.noise_from_output = one, zero  # exactly, even where ᾱ is 0

    @property
    def max_t(self) -> int:
        """The greatest timestep with something of z left."""
        return int((self.alphas_cumprod > 0).nonzero().max())

    @property
    def default_t_max(self) -> int:
        """0.98 T, or the last timestep with σ/α ≤ 13 if that is earlier. At 0.98 T, σ/α is 13 in Stable Diffusion, and
        150 in Stable Diffusion 3."""
        a = self.alphas_cumprod
        return min(round(0.98 * len(a)), int((((1 - a) / a).sqrt() <= 13.05).nonzero().max()))


PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction", "flow_prediction": "flow"}


def read_noising(config: dict, tokens: int, time_scale: float | None = None, time_dtype=torch.float64) -> Noising:
    """The schedule that a checkpoint was trained with, from the config of any discrete diffusers scheduler.

    tokens: the number of tokens of a picture, on which dynamic shifting depends. time_scale: a flow's network takes σ
    times this. time_dtype: the precision to which the network rounds σ; the noise then matches the rounded σ.

    Raises InputError for schedules that are neither discrete and variance-preserving nor flows.
    """
    name, T = config.get("_class_name", ""), config.get("num_train_timesteps", 1000)
    prediction = config.get("prediction_type", "epsilon")
    if not (name.startswith("FlowMatch") or config.get("use_flow_sigmas") or prediction == "flow_prediction"):
        from diffusers import DDPMScheduler

        if prediction not in PREDICTIONS:
            raise InputError(f"--prior.path: it predicts {prediction}; one of {', '.join(PREDICTIONS)} is needed")
        # DDPMScheduler reads the config of any discrete scheduler and derives the β that the network was trained with.
        betas = DDPMScheduler.from_config(config).betas.double()
        alphas_cumprod = (1 - betas).cumprod(0)
        return Noising(alphas_cumprod, torch.ones_like(betas), torch.arange(len(betas)), PREDICTIONS[prediction])
    if config.get("invert_sigmas"):
        raise InputError("--prior.path: its invert_sigmas is set: the network takes the signal, not the noise")
    shift = config.get("shift", 1.0) if name.startswith("FlowMatch") else config.get("flow_shift") or 1.0
    if config.get("use_dynamic_shifting"):
        low, high = config.get("base_image_seq_len") or 256, config.get("max_image_seq_len") or 4096
        base, most = config.get("base_shift") or 0.5, config.get("max_shift") or 1.15
        mu = base + (most - base) * (tokens - low) / (high - low)
        shift = math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu
    u = (torch.arange(T, dtype=torch.float64) + 1) / T
    sigma = (shift * u / (1 + (shift - 1) * u)).to(time_dtype).double()
    scale = ((1 - sigma) ** 2 + sigma**2).sqrt()
    return Noising(((1 - sigma) / scale) ** 2, scale, sigma * (time_scale or T), "flow")


def sampling_timesteps(config: dict, noising: Noising, steps: int) -> torch.Tensor:
    """A sampler's timesteps, from noise to picture: long (steps,), with the spacing of the checkpoint's scheduler.

    A spacing that would start where latents are not pure noise is replaced by "trailing" (Lin et al. 2023, arXiv
    2305.08891). "leading" does so if `steps` is small or not a divisor of T. Raises InputError for more steps than T.
    """
    T = len(noising.alphas_cumprod)
    if not 1 <= steps <= T:
        raise InputError(f"--steps {steps}: a sampler has from 1 to {T}, the number of timesteps")
    spacing, offset = config.get("timestep_spacing") or "leading", config.get("steps_offset") or 0
    flow = noising.prediction_type == "flow"
    if spacing == "linspace" and not flow:
        t = torch.linspace(T - 1, 0, steps, dtype=torch.float64)
    elif spacing == "leading" and not flow and T - 1 - (steps - 1) * (T // steps) < 0.2 * T:
        t = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (T // steps) + offset
    else:
        t = T - torch.arange(steps, dtype=torch.float64) * T / steps - 1
    last = T - 1 if noising.clean_from_output[1].isfinite()[-1] else noising.max_t
    return t.round().long().clamp(0, last)
