"""Noise-Free Score Distillation. Katzir et al. 2023, arXiv 2310.17590."""

from dataclasses import dataclass

from algorithms.method import Method
from priors.device import per_row
from priors.settings import Fraction

P_NEG = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"


@dataclass
class NFSDSettings:
    negative_prompt: str | None = None
    """p_neg, a prompt for pictures unlike the data. None: --negative-prompt, or the paper's if that is empty."""
    denoised_below: Fraction = 0.2
    """Fraction of T below which the prediction for the empty prompt is taken as δ_D, with no noise to subtract."""


class NFSD(Method):
    """g = δ_D + s δ_C, SDS without the part of the prediction that only denoises.

    δ_C = ε̂(z_t; y, t) - ε̂(z_t; ∅, t)      the direction of the condition
    δ_D = ε̂(z_t; ∅, t)                      for t < 0.2 T, where this points towards the data
    δ_D = ε̂(z_t; ∅, t) - ε̂(z_t; p_neg, t)  above, where the prediction for p_neg estimates the noise
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "dreamfusion"}
    is_guided = False  # s scales δ_C alone.
    Settings = NFSDSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        own = self.settings.negative_prompt
        negative = [prompt or P_NEG if own is None else own for prompt in particles.negative_prompts]
        self.y_p_neg = particles.encode_prompt(negative, negative=True)

    def gradient(self, z, t, particles, progress):
        y, y_empty, y_p_neg = particles.y, particles.y_empty, self.y_p_neg[particles.rows]
        z_t = self.prior.add_noise(z, particles.noise_like(z), t)
        noise_y, noise_empty, noise_negative = self.prior.predict_noises(z_t, t, y, y_empty, y_p_neg)
        self.record("x0", z_t, noise_y, t)
        noisy = per_row(t >= self.settings.denoised_below * self.prior.num_train_timesteps, z)
        delta_C = noise_y - noise_empty
        delta_D = noise_empty - noisy * noise_negative
        return delta_D + self.s * delta_C
