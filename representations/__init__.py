"""What is optimised: anything that yields latents and pictures. A new one is a new file and a line in
REPRESENTATIONS."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
from pydantic import NonNegativeInt

from errors import Fraction, NonNegative, Positive, Rate
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
    """What it starts from. None: noise, unless the method or the checkpoint has a default of its own."""
    init_std: NonNegative | None = None
    """Standard deviation of the noise for --rep.init noise: of the latents, or of pixels times 4. None: 1."""
    init_color: tuple[Fraction, Fraction, Fraction] | None = None
    """Red, green and blue in [0, 1] for --rep.init constant, which this flag implies. None: gray."""
    init_images: tuple[str, ...] = ()
    """Image files for --rep.init image, which this flag implies: one for all, one a prompt, or one a particle."""
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    """Adam, AdamW (weight decay 0.01) or plain SGD. None: adam, unless the method or the checkpoint has a default
    of its own."""
    lr: Rate | None = None
    """Learning rate; for gaussian2d, bezier and field, a factor on those of their groups. None: the representation's
    own for this optimizer."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over the run, to 0 after the last step."""
    lr_warm_up: NonNegativeInt = 0
    """Steps over which it rises first."""
    betas: tuple[Beta, Beta] | None = None
    """β_1 and β_2 of Adam and AdamW. None: PyTorch's own, 0.9 and 0.999."""
    eps: Positive | None = None
    """ε of Adam and AdamW. None: PyTorch's own, 1e-8."""


@dataclass
class RepresentationConfig(*(cls.Settings for cls in REPRESENTATIONS.values() if cls.Settings), Common):
    """Common, and --rep.<field> for every representation that has settings of its own."""
