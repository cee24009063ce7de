"""What is optimised: anything that gives latents and pictures. To add one, add a file and a line in
REPRESENTATIONS."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
from pydantic import NonNegativeInt

from priors.settings import Fraction, NonNegative, Positive, Rate
from representations.bezier import Bezier
from representations.field import Field
from representations.gaussian2d import Gaussian2D
from representations.latent import Latent
from representations.pixel import Pixel

Beta = Annotated[NonNegative, pydantic.Field(lt=1)]
REPRESENTATIONS = {"latent": Latent, "pixel": Pixel, "gaussian2d": Gaussian2D, "bezier": Bezier, "field": Field}


@dataclass
class Common:
    kind: Literal[tuple(REPRESENTATIONS)] = "latent"
    """What is optimised."""
    init: Literal["noise", "constant", "image", "source"] | None = None
    """What the run starts from. None: the method's or the checkpoint's default, or noise."""
    init_std: NonNegative | None = None
    """Standard deviation of the noise for --rep.init noise: of the latents, or 4 times that of the pixels. None: 1."""
    init_color: tuple[Fraction, Fraction, Fraction] | None = None
    """Red, green and blue in [0, 1] for --rep.init constant, which this flag implies. None: gray."""
    init_images: tuple[str, ...] = ()
    """Image files for --rep.init image, which this flag implies: one for all, one per prompt, or one per particle."""
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    """Adam, AdamW (weight decay 0.01) or plain SGD. None: the method's or the checkpoint's default, or adam."""
    lr: Rate | None = None
    """Learning rate; for gaussian2d, bezier and field, a factor on the rates of their groups. None: the
    representation's default for this optimizer."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate decays over the run; linear and cosine reach 0 after the last step."""
    lr_warm_up: NonNegativeInt = 0
    """Warm-up steps in which the learning rate rises first."""
    betas: tuple[Beta, Beta] | None = None
    """β_1 and β_2 of Adam and AdamW. None: PyTorch's defaults, 0.9 and 0.999."""
    eps: Positive | None = None
    """ε of Adam and AdamW. None: PyTorch's default, 1e-8."""


@dataclass
class RepresentationConfig(*(cls.Settings for cls in REPRESENTATIONS.values() if cls.Settings), Common):
    """Common, and --rep.<field> for the settings of each representation."""
