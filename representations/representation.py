"""The interface of a representation, and what most representations share."""

import torch


class Representation:
    """A representation is a subclass with `learning_rates`, `parameters`, `latents` and `images`.

    learning_rates   --rep.lr where none is given, for each optimizer
    Settings         a dataclass of its own flags --rep.<field>, or None; RepresentationConfig inherits from it
    """

    learning_rates: dict[str, float] = {}
    Settings = None

    def parameters(self) -> list:
        """What torch.optim takes: tensors, or groups of them with learning rates of their own."""
        raise NotImplementedError

    def latents(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(B, C, h, w), differentiable, of the particles `rows`; all, where --batch is not given."""
        raise NotImplementedError

    def images(self) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1], or near it."""
        raise NotImplementedError

    def project(self) -> None:
        """Makes the parameters valid again after an optimiser step. What is not finite must stay so, and be found."""

    def views(self, images: torch.Tensor) -> dict:
        """More pictures of its state, recorded with `images`: {name: (pictures (B, 3, H, W), a note)}."""
        return {}

    def files(self) -> dict:
        """More files for the end of the run: {file name: a function that writes to a path}."""
        return {}


def keep_outside(values: torch.Tensor, start: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Puts the values (B, C, H, W) back to those at the start where the mask, (B, 1, …) of any size, has no point, in
    place."""
    if mask is not None:
        inside = torch.nn.functional.adaptive_max_pool2d(mask.float(), values.shape[-2:]) > 0
        values.copy_(torch.where(inside, values, start))


def clamp_colors(values: torch.Tensor) -> None:
    """Back into [0, 1], in place. What is not finite becomes NaN: it is an error, not a colour."""
    values.copy_(values.clamp(0, 1).where(values.isfinite(), float("nan")))


def make_optimizer(config, parameters: list) -> torch.optim.Optimizer:
    """The optimizer of a resolved RepresentationConfig."""
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    given = {name: value for name, value in options.items() if value is not None}
    return classes[config.optimizer](parameters, **given)
