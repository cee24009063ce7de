"""Latents, optimised directly: no autoencoder between them and the prior."""

import torch

from errors import InputError
from representations.representation import Representation, keep_outside
from representations.start import start_images


class Latent(Representation):
    """Parameters z (B, C, h, w), in the checkpoint's scaled units."""

    learning_rates = {"adam": 0.05, "adamw": 0.05, "sgd": 0.5}

    def __init__(self, config, prior, particles):
        if prior.latent_shape == (3, *prior.image_size):
            raise InputError("--rep.kind latent: this prior has no latents, it works on pixels; pixel is needed")
        if config.init == "noise":
            start = particles.randn(*prior.latent_shape) * config.init_std
        else:
            with torch.no_grad():
                start = prior.encode(start_images(config, prior, particles))
        self.config, self.prior, self.mask = config, prior, particles.source_mask
        self.z = torch.nn.Parameter(start.float().contiguous())
        self.start = self.z.detach().clone() if self.mask is not None else None

    def parameters(self):
        return [self.z]

    def latents(self, rows=slice(None)):
        """(B, C, h, w), differentiable."""
        return self.z[rows].clone()  # A copy, because the optimizer changes z in place.

    def project(self):
        """Resets latents outside the source mask to the source."""
        keep_outside(self.z.data, self.start, self.mask)

    def images(self, rows=slice(None)):
        """(B, 3, H, W), decoded, not clamped."""
        return self.prior.decode(self.z[rows])
