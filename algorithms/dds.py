"""Delta Denoising Score. Hertz et al. 2023, arXiv 2304.07090, equation 3."""

import torch

from algorithms.method import Method
from algorithms.particles import Particles
from priors.device import per_row


def delta_noise(method: Method, z: torch.Tensor, t: torch.Tensor, particles: Particles) -> torch.Tensor:
    """ε̂^s(z_t; y, t) - ε̂^{s_src}(z^src_t; y^src, t), the same ε and t for both, in one call of 4B rows."""
    noise, pair_t = particles.noise_like(z), torch.cat([t, t])
    noised = method.prior.add_noise(torch.cat([z, particles.source]), torch.cat([noise, noise]), pair_t)
    y = torch.cat([particles.y, particles.y_source])
    y_negative = torch.cat([particles.y_negative, particles.y_source_negative])
    s = method.s
    if method.source_s != s:
        s = per_row(torch.tensor([s, method.source_s], dtype=torch.float64).repeat_interleave(len(z)), z)
    target, source = method.guided_noise(noised, pair_t, y, y_negative, s).chunk(2)
    method.record("x0", noised[: len(z)], target, t)
    return target - source


class DDS(Method):
    """g = ε̂^s(z_t; y, t) - ε̂^s(z^src_t; y^src, t), the same ε and t for both: an edit.

    On a picture that already fits its prompt, the SDS gradient is pure error. DDS estimates that error on the source
    and its prompt, and subtracts it.
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "constant"}
    defaults |= {"schedule.t_min": 0.05, "schedule.t_max": 0.95}
    edits = True

    def gradient(self, z, t, particles, progress):
        return delta_noise(self, z, t, particles)
