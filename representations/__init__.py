"""What is optimised: anything that gives latents and pictures. To add one, add a file and a line in
REPRESENTATIONS."""

from dataclasses import dataclass, fields, make_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
from pydantic import NonNegativeInt

from algorithms import DISTILLING
from priors.settings import Fraction, NonNegative, Positive, Rate, when
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
    init_std: Annotated[NonNegative | None, when(init="noise")] = None
    """Standard deviation of the noise for --rep.init noise: of the latents, or 4 times that of the pixels. None: 1."""
    init_color: Annotated[tuple[Fraction, Fraction, Fraction] | None, when(init="constant")] = None
    """Red, green and blue in [0, 1] for --rep.init constant, which this flag implies. None: gray."""
    init_images: Annotated[tuple[str, ...], when(init="image", needed=True)] = ()
    """Image files for --rep.init image, which this flag implies: one for all, one per prompt, or one per particle."""
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    """Adam, AdamW (weight decay 0.01) or plain SGD. None: the method's or the checkpoint's default, or adam."""
    lr: Rate | None = None
    """Learning rate; for gaussian2d, bezier and field, a factor on the rates of their groups. None: the
    representation's default for this optimizer."""
    lr_schedule: Annotated[Literal["constant", "linear", "cosine"], when({"algo.name": DISTILLING})] = "constant"
    """How the learning rate decays over the run; linear and cosine reach 0 after the last step."""
    lr_warm_up: Annotated[NonNegativeInt, when({"algo.name": DISTILLING})] = 0
    """Warm-up steps in which the learning rate rises first."""
    betas: Annotated[tuple[Beta, Beta] | None, when(optimizer=["adam", "adamw"])] = None
    """β_1 and β_2 of Adam and AdamW. None: PyTorch's defaults, 0.9 and 0.999."""
    eps: Annotated[Positive | None, when(optimizer=["adam", "adamw"])] = None
    """ε of Adam and AdamW. None: PyTorch's default, 1e-8."""


SETTINGS = {kind: cls.Settings for kind, cls in REPRESENTATIONS.items() if cls.Settings}


def only_with(kinds: list[str], hint: Any) -> Any:
    """A setting's type with one condition more, before its own."""
    plain, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return Annotated[(plain, when(kind=kinds), *notes)]


def own_settings() -> list[tuple]:
    """The settings of all representations for make_dataclass, each only with those that have it."""
    found = {setting.name: setting for cls in SETTINGS.values() for setting in fields(cls)}
    kinds = {name: [kind for kind, cls in SETTINGS.items() if hasattr(cls, name)] for name in found}
    return [(name, only_with(kinds[name], own.type), own.default) for name, own in found.items()]


# Common, and --rep.<field> for the settings of each representation.
RepresentationConfig = make_dataclass("RepresentationConfig", own_settings(), bases=(*SETTINGS.values(), Common))
RepresentationConfig.__module__ = __name__  # so that it can be pickled, for other processes
