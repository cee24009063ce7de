"""Errors for numbers that are not finite: which, of which step, timestep and particle, and the likely cause."""

from collections.abc import Callable

import torch

from algorithms.method import Method
from priors.prior import Prior

TOO_LONG = "its update was too large for float32: a lower {} is needed"
CAUSES = {
    "parameter": TOO_LONG.format("--rep.lr, --algo.guidance-scale or weight"),
    "part that learns": TOO_LONG.format("--algo.vsd.lora-lr or --algo.lods.lr"),
}


def require_finite_norms(norms: torch.Tensor, place: Callable[[int], str], what: str, prior: Prior) -> None:
    """Raises FloatingPointError for the first particle whose norm, of (B,), is not finite, at place(particle)."""
    for particle, finite in enumerate(norms.isfinite().tolist()):
        if not finite:
            network = {"latent": "autoencoder", "decoded picture": "autoencoder"}.get(what, "UNet")
            cause = f"the checkpoint's {network} is broken, or its input was too large"
            if prior.dtype == torch.float16:
                cause = (
                    f"float16 ends at 65,504, which the {network} exceeded: --prior.dtype bfloat16 or float32 is needed"
                )
            raise FloatingPointError(f"{place(particle)}: the {what} is not finite; {CAUSES.get(what, cause)}")


def step_norms(z: torch.Tensor, gradient: torch.Tensor, parameters: list, algorithm: Method) -> dict[str, torch.Tensor]:
    """{what: norms (B,)} of a step, on the device, in the order in which a step computes them: the first that is
    not finite is the cause of the others."""
    rows = len(z)
    # A parameter that all particles share is counted for each.
    each = [p.detach().reshape(rows if p.shape[:1] == (rows,) else 1, -1).norm(dim=1) for p in parameters]
    norms = {"latent": z.flatten(1).norm(dim=1), "gradient": gradient.flatten(1).norm(dim=1)}
    norms["parameter"] = sum(norm.expand(rows) for norm in each)
    if learned := algorithm.parameters():
        norms["part that learns"] = sum(p.detach().norm() for p in learned).expand(1)
    return norms


def require_finite_step(
    norms: dict[str, torch.Tensor], step: int, particles: list[int], t: list[int], prior: Prior
) -> None:
    """Raises FloatingPointError for step_norms of a step of these particles at timesteps t."""
    for what, values in norms.items():
        places = (
            ["all particles"]
            if what == "part that learns"
            else [f"timestep {time}, particle {particle}" for particle, time in zip(particles, t, strict=True)]
        )
        require_finite_norms(values, lambda row, places=places: f"step {step}, {places[row]}", what, prior)
