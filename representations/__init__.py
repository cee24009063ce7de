"""What is optimised: anything that yields latents and pictures. A new one is a new file and a line in REPRESENTATIONS."""

from dataclasses import dataclass
from typing import Literal

import torch

from representations.gaussian2d import Gaussian2D
from representations.latent import Latent
from representations.pixel import Pixel

REPRESENTATIONS = {"latent": Latent, "pixel": Pixel, "gaussian2d": Gaussian2D}


@dataclass
class Common:
    kind: Literal[tuple(REPRESENTATIONS)] = "latent"
    """What is optimised."""
    init: Literal["noise", "constant", "image", "source"] | None = None
    """What it starts from. None: noise, unless the method or the checkpoint knows better."""
    init_std: float | None = None
    """Deviation of the noise for --rep.init noise: of the latents, or of four times the pixels. None: 1."""
    init_color: tuple[float, float, float] | None = None
    """Red, green and blue in [0, 1] for --rep.init constant, which it implies. None: gray."""
    init_images: tuple[str, ...] = ()
    """Image files for --rep.init image, which they imply: one for all, one a prompt, or one a particle."""
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    """Adam, AdamW (weight decay 0.01) or plain SGD. None: adam, unless the method or the checkpoint knows better."""
    lr: float | None = None
    """Learning rate; for gaussian2d, a factor on those of its groups. None: the representation's own for this optimizer."""


@dataclass
class RepresentationConfig(*(cls.Settings for cls in REPRESENTATIONS.values() if cls.Settings), Common):
    """Common, and --rep.<field> for every representation that has settings of its own."""


def make_optimizer(name, parameters, lr):
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    return classes[name](parameters, lr=lr)
