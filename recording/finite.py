"""Errors for values that are not finite. They name the step, the timestep, the particle and the likely cause."""

import math

import torch

from algorithms.method import Method
from priors.prior import Prior

LEARNED = "part that learns"
TOO_LONG = "its update was too large for float32; lower {}"
CAUSES = {
    "parameter": TOO_LONG.format("--rep.lr, --algo.guidance-scale or the weight"),
    LEARNED: TOO_LONG.format("--algo.vsd.lora-lr, --algo.vsd.full-lr or --algo.lods.lr"),
}


def require_finite(norms: torch.Tensor, places: list[str], what: str, prior: Prior) -> None:
    """Raises FloatingPointError for the first of the norms (N,) that is not finite. places: where each is from."""
    for place, norm in zip(places, norms.tolist(), strict=True):
        if not math.isfinite(norm):
            network = "autoencoder" if what in ("latent", "decoded picture") else "denoiser"
            cause = f"the checkpoint's {network} is broken, or its input was too large"
            if prior.dtype == torch.float16:
                cause = f"float16 ends at 65,504, which the {network} exceeded: "
                cause += "--prior.dtype bfloat16 or float32 is needed"
            raise FloatingPointError(f"{place}: the {what} is not finite; {CAUSES.get(what, cause)}")


def step_norms(z: torch.Tensor, gradient: torch.Tensor, parameters: list, algorithm: Method) -> dict[str, torch.Tensor]:
    """{what: norms, (B,) or (1,)} of a step, on the device, in the order in which the step computes them, so that the
    first that is not finite causes the others."""
    rows = len(z)
    # A parameter that all particles share counts for each of them.
    each = [p.detach().reshape(rows if p.shape[:1] == (rows,) else 1, -1).norm(dim=1) for p in parameters]
    norms = {"latent": z.flatten(1).norm(dim=1), "gradient": gradient.flatten(1).norm(dim=1)}
    norms["parameter"] = sum(norm.expand(rows) for norm in each)
    if learned := list(algorithm.parameters()):
        norms[LEARNED] = torch.nn.utils.get_total_norm([p.detach() for p in learned]).view(1)
    return norms


def require_finite_step(
    norms: dict[str, torch.Tensor], step: int, particles: list[int], t: list[int], prior: Prior
) -> None:
    """Raises FloatingPointError if step_norms are not finite. particles, t: the rows and timesteps of the step."""
    places = [f"step {step}, timestep {time}, particle {row}" for row, time in zip(particles, t, strict=True)]
    for what, values in norms.items():
        require_finite(values, [f"step {step}, all particles"] if what == LEARNED else places, what, prior)
