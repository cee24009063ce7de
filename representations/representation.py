"""The interface of a representation, and what most representations have in common."""

import math
import sys

import torch


class Representation:
    """Subclasses implement `images`; everything else has a default that can be overridden.

    config, prior    its resolved RepresentationConfig, and the prior
    groups           {name: Parameter (B, …)}: what is optimised, each at the learning rate config.<name>_lr · --rep.lr
    mask             (B, 1, H, W), where --source-mask lets it change, or None
    learning_rates   the default of --rep.lr for each optimizer
    Settings         a dataclass of its own flags --rep.<field>, or None; RepresentationConfig inherits from it
    titles           {name: title on the page} of its views
    """

    learning_rates: dict[str, float] = {"adam": 1.0, "adamw": 1.0, "sgd": 100.0}
    mask = None
    Settings = None
    titles: dict[str, str] = {}

    def parameters(self) -> list:
        """Parameters for torch.optim: tensors, or groups with their own learning rates. Groups have no weight decay: a
        parameter of 0 is a corner of the canvas or an opacity of a half, and nothing to decay towards."""
        return self.groups_at(self.config.lr)

    def groups_at(self, factor: float) -> list[dict]:
        return [
            {"params": [value], "lr": factor * self.rate(name), "weight_decay": 0.0}
            for name, value in self.groups.items()
        ]

    def rate(self, name: str) -> float:
        return getattr(self.config, f"{name}_lr")

    def images(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(B, 3, H, W) in or near [0, 1], for the particles `rows`; all of them without --batch."""
        raise NotImplementedError

    def latents(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(B, C, h, w), differentiable: the mean of the autoencoder's posterior."""
        return self.prior.encode(self.images(rows))

    def project(self) -> None:
        """Makes the parameters valid again after an optimiser step. Values that are not finite must stay so, to be
        detected."""

    def views(self, images: torch.Tensor) -> dict:
        """Extra pictures of its state, recorded with `images`: {name: (pictures (B, 3, H, W), a note)}."""
        return {}

    def files(self) -> dict:
        """Extra files at the end of the run: {file name: a function that writes to a path}."""
        return {}

    def masked(self, images: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
        """The images (B, 3, H, W), without gradient outside the mask."""
        if self.mask is not None and images.requires_grad:
            images.register_hook(lambda gradient: gradient * self.mask[rows].to(gradient))
        return images

    def fit(self, pictures: torch.Tensor) -> None:
        """Fits it to pictures (B, 3, H, W) by least squares, and prints each particle's PSNR in dB."""
        from tqdm import tqdm

        steps = self.config.fit_steps or 500
        optimizer = torch.optim.Adam(self.groups_at(1.0))
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in (bar := tqdm(range(steps), desc="fit", unit="step")):
            errors = (self.images() - pictures).square().mean((1, 2, 3))  # (B,)
            optimizer.zero_grad(set_to_none=True)
            errors.sum().backward()
            optimizer.step()
            decay.step()
            self.project()
            if step % 20 == 0:
                bar.set_postfix(psnr=f"{-10 * errors.detach().mean().log10():.1f} dB", refresh=False)
        with torch.no_grad():
            errors = (self.images() - pictures).square().mean((1, 2, 3))
        psnr = " ".join(f"{-10 * math.log10(max(error, 1e-12)):.1f}" for error in errors.tolist())
        print(f"fitted to {psnr} dB", file=sys.stderr)


def keep_outside(values: torch.Tensor, start: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Resets the values (B, C, H, W) in place to those at the start wherever the mask, (B, 1, …) of any size, is
    empty."""
    if mask is not None:
        inside = torch.nn.functional.adaptive_max_pool2d(mask.float(), values.shape[-2:]) > 0
        values.copy_(torch.where(inside, values, start))


def clamp_colors(values: torch.Tensor) -> None:
    """Clamps to [0, 1], in place. Values that are not finite become NaN: they are errors, not colours."""
    values.copy_(values.clamp(0, 1).where(values.isfinite(), float("nan")))


def make_optimizer(config, parameters: list) -> torch.optim.Optimizer:
    """The optimizer of a resolved RepresentationConfig."""
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    given = {name: value for name, value in options.items() if value is not None}
    return classes[config.optimizer](parameters, **given)


def set_learning_rate(optimizer: torch.optim.Optimizer, config, step: int, steps: int) -> None:
    """Sets the optimizer's rates for that step of the run: linear warm-up over --rep.lr-warm-up, then decay by
    --rep.lr-schedule, to 0 after the last step unless it is constant."""
    done = max(0, step - config.lr_warm_up) / max(1, steps - config.lr_warm_up)
    fall = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[config.lr_schedule]
    factor = fall * min(1.0, (step + 1) / (config.lr_warm_up + 1))
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
