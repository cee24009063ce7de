"""Delta Denoising Score. Hertz et al. 2023, arXiv 2304.07090, equation 3."""

import torch

from algorithms.method import Method


def delta_noise(prior, particles, s, z, t):
    """ε̂^s(z_t; y, t) - ε̂^s(z^src_t; y^src, t), one ε and t for both and one call of 4B."""
    noise, pair_t = particles.noise_like(z), torch.cat([t, t])
    noised = prior.add_noise(torch.cat([z, particles.source]), torch.cat([noise, noise]), pair_t)
    text, negative = (
        torch.cat([particles.text, particles.source_text]),
        torch.cat([particles.negative, particles.negative]),
    )
    target, source = prior.guided_noise(noised, pair_t, text, negative, s).chunk(2)
    return target - source


class DDS(Method):
    """g = ε̂^s(z_t; y, t) - ε̂^s(z^src_t; y^src, t), one ε and t for both: an edit.

    What SDS would do to a picture that fits its own prompt already is an error of SDS; the source and its prompt measure
    that error, and it is taken away.
    """

    defaults = {
        "algo.guidance_scale": 7.5,
        "schedule.weight": "constant",
        "schedule.t_min": 0.05,
        "schedule.t_max": 0.95,
        "rep.init": "source",
        "particles": 1,
    }
    edits = True

    def gradient(self, z, t, progress):
        return delta_noise(self.prior, self.particles, self.s, z, t)
