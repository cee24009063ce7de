"""Classifier Score Distillation. Yu et al. 2023, arXiv 2310.19415."""

from dataclasses import dataclass

from algorithms.method import Method
from priors.settings import Finite


@dataclass
class CSDSettings:
    w1: Finite = 1.0
    """Weight w₁ of the prompt's classifier score."""
    w2: Finite = 0.5
    """Weight w₂ of the negative prompt's classifier score; no effect without a negative prompt."""
    w2_end: Finite | None = None
    """w₂ at the end of the run, reached linearly (the paper's annealing). None: w₂ is constant."""


class CSD(Method):
    """g = w₁ (ε̂(z_t; y, t) - ε̂(z_t; ∅, t)) + w₂ (ε̂(z_t; ∅, t) - ε̂(z_t; y⁻, t)).

    Only the guidance term of SDS: the gradient of an implicit classifier's log p(y | z_t). A negative prompt adds the
    gradient away from log p(y⁻ | z_t).
    """

    defaults = {"schedule.weight": "dreamfusion"}
    Settings = CSDSettings

    def gradient(self, z, t, particles, progress):
        w1, w2 = self.settings.w1, self.settings.w2
        if self.settings.w2_end is not None:
            w2 += (self.settings.w2_end - w2) * progress
        y, y_empty, y_negative = particles.y, particles.y_empty, particles.y_negative
        z_t = self.prior.add_noise(z, particles.noise_like(z), t)
        noise_y, noise_empty, noise_negative = self.prior.predict_noises(z_t, t, y, y_empty, y_negative)
        self.record("x0", z_t, noise_y, t)
        return w1 * (noise_y - noise_empty) + w2 * (noise_empty - noise_negative)
