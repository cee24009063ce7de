"""Classifier Score Distillation. Yu et al. 2023, arXiv 2310.19415."""

from dataclasses import dataclass

from algorithms.method import Method


@dataclass
class CSDSettings:
    w1: float = 1.0
    """Weight w₁ of the prompt's classifier score."""
    w2: float = 0.5
    """Weight w₂ of the negative prompt's classifier score; without a negative prompt it does nothing."""
    w2_end: float | None = None
    """What w₂ moves to over the run in a straight line, the paper's annealing. None: w₂ stays."""


class CSD(Method):
    """g = w₁ (ε̂(z_t; y, t) - ε̂(z_t; ∅, t)), guidance and nothing else: the gradient of an implicit classifier's log p(y | z_t).

    With a negative prompt, g = w₁ ε̂(y) + (w₂ - w₁) ε̂(∅) - w₂ ε̂(y⁻).
    """

    defaults = {"schedule.weight": "dreamfusion"}
    Settings = CSDSettings

    @classmethod
    def check(cls, settings, require):
        for name, value in (("w1", settings.w1), ("w2", settings.w2), ("w2-end", settings.w2_end)):
            require(value is None or abs(value) < float("inf"), f"--algo.csd.{name} {value}: a finite number is needed")

    def gradient(self, z, t, progress):
        w1, w2 = self.settings.w1, self.settings.w2
        if self.settings.w2_end is not None:
            w2 += (self.settings.w2_end - w2) * progress
        particles = self.particles
        z_t = self.prior.add_noise(z, particles.noise_like(z), t)
        if not particles.negative_prompt:
            with_text, empty = self.prior.predict_noises(z_t, t, particles.text, particles.empty)
            self.prior.note("x0", z_t, with_text, t)
            return w1 * (with_text - empty)
        with_text, empty, negative = self.prior.predict_noises(
            z_t, t, particles.text, particles.empty, particles.negative
        )
        self.prior.note("x0", z_t, with_text, t)
        return w1 * with_text + (w2 - w1) * empty - w2 * negative
