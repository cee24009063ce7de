"""SDS-Bridge. McAllister et al. 2024, Rethinking Score Distillation as a Bridge Between Image Distributions, arXiv
2406.09417."""

from dataclasses import dataclass

from algorithms.sds import SDS
from priors.settings import Fraction

SOURCE_WORDS = ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"


@dataclass
class BridgeSettings:
    source_words: str = SOURCE_WORDS
    """Added to the prompt in the second stage, to describe the pictures that SDS makes."""
    target_words: str = ", detailed high resolution, high quality, sharp"
    """Added to the prompt in the second stage, to describe the wanted pictures."""
    switch: Fraction = 0.5
    """Fraction of the run that is SDS."""


class Bridge(SDS):
    """First SDS, g = ε̂^s(z_t; y, t) - ε, then g = s (ε̂(z_t; y + target words, t) - ε̂(z_t; y + source words, t)).

    Distillation moves a picture from one distribution to another along a bridge, whose direction is the difference of
    two scores. Once SDS has made a picture, a prompt describes the picture's distribution better than noise does. There
    y⁻, guidance rescale and Perp-Neg have no effect.
    """

    defaults = {"algo.guidance_scale": 40.0, "schedule.weight": "dreamfusion"}
    Settings = BridgeSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.y_source = particles.encode_prompt([prompt + self.settings.source_words for prompt in particles.prompts])
        self.y_target = particles.encode_prompt([prompt + self.settings.target_words for prompt in particles.prompts])

    def gradient(self, z, t, particles, progress):
        if progress < self.settings.switch:
            return super().gradient(z, t, particles, progress)
        z_t = self.prior.add_noise(z, particles.noise_like(z), t)
        y_target, y_source = self.y_target[particles.rows], self.y_source[particles.rows]
        target, source = self.prior.predict_noises(z_t, t, y_target, y_source)
        self.record("x0", z_t, target, t)
        return self.s * (target - source)
