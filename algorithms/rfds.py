"""Rectified Flow Distillation Sampling with reversal, RFDS-Rev. Yang et al. 2024, arXiv 2406.03293."""

from dataclasses import dataclass

from algorithms.method import Method
from priors.settings import NonNegative


@dataclass
class RFDSSettings:
    reverse: NonNegative = 1.0
    """κ, how far the noise moves to the prediction without guidance; 0 is RFDS, which is SDS."""


class RFDS(Method):
    """g = ε̂^s(√ᾱ_t z + √(1-ᾱ_t) ε'; y, t) - ε' with ε' = ε + κ (ε̂(z_t; y, t) - ε), for any noise schedule.

    κ first moves ε towards the prior's own prediction without guidance. κ = 1 and s = 50 are from the authors' code for
    SD3. With κ = 0 and the weight `rfds`, 1 + λ_t, it is RFDS.
    """

    defaults = {"algo.guidance_scale": 50.0, "schedule.weight": "rfds"}
    like = "sds"
    Settings = RFDSSettings

    def gradient(self, z, t, particles, progress):
        prior, noise = self.prior, particles.noise_like(z)
        if self.settings.reverse:
            unguided = prior.predict_noise(prior.add_noise(z, noise, t), t, particles.y)
            noise = noise + self.settings.reverse * (unguided - noise)
        z_t = prior.add_noise(z, noise, t)
        predicted = self.guided_noise(z_t, t, particles.y, particles.y_negative)
        self.record("x0", z_t, predicted, t)
        return predicted - noise
