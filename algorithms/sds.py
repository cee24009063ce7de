"""Score Distillation Sampling. Poole et al. 2022, DreamFusion, arXiv 2209.14988, equation 3."""

from algorithms.method import Method


class SDS(Method):
    """g = ε̂^s(z_t; y, t) - ε.

    The gradient of the diffusion loss without the network's Jacobian: it moves the rendering so that the noise that
    the prior predicts is the noise that was added. Guidance is ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻)); the paper's ω is s - 1.
    """

    defaults = {"algo.guidance_scale": 100.0, "schedule.weight": "dreamfusion"}  # w(t) = 1 - ᾱ_t, the paper's σ_t²

    def gradient(self, z, t, particles, progress):
        noise = particles.noise_like(z)
        z_t = self.prior.add_noise(z, noise, t)
        predicted = self.guided_noise(z_t, t, particles.y, particles.y_negative)
        self.record("x0", z_t, predicted, t)
        return predicted - noise
