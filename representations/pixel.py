"""Pixels, encoded for the prior by its autoencoder, which is part of the graph."""

import torch

from representations.representation import Representation, clamp_colors, keep_outside
from representations.start import start_images


class Pixel(Representation):
    """The parameters are the image itself, (B, 3, H, W) in [0, 1].

    The range must be enforced, as the autoencoder alone does not keep colours in it. Clamping while rendering has no
    gradient outside the range, and a sigmoid has almost none near its ends, so pixels that reach 0 or 1 would stay
    there. Instead, every step ends with a projection onto [0, 1], so that pixels at 0 and 1 get the full gradient.
    """

    learning_rates = {"adam": 0.02, "adamw": 0.02, "sgd": 10.0}

    def __init__(self, config, prior, particles):
        if config.init == "noise":
            start = 0.5 + 0.25 * config.init_std * particles.randn(3, *prior.image_size)
        else:
            start = start_images(config, prior, particles)
        self.config, self.prior, self.mask = config, prior, particles.source_mask
        self.pixels = torch.nn.Parameter(start.float().clamp(0, 1).contiguous())
        self.start = self.pixels.detach().clone() if self.mask is not None else None

    def parameters(self):
        return [self.pixels]

    def images(self, rows=slice(None)):
        """(B, 3, H, W) in [0, 1]."""
        return self.pixels[rows]

    def project(self):
        """Projects pixels back into [0, 1] after an optimiser step, and resets those outside the source mask."""
        clamp_colors(self.pixels.data)
        keep_outside(self.pixels.data, self.start, self.mask)
