"""The method's gradient and predictions at timesteps other than the step's own, without affecting the run."""

import io

import torch

from algorithms.method import Method
from algorithms.particles import Particles
from errors import InputError


def probe_timesteps(given: tuple[float, ...], algorithm: Method) -> list[int]:
    """--log.timesteps for this prior and method, raised to min_t, without duplicates; none for a sampler.

    Raises InputError for a timestep beyond the prior's last.
    """
    T, last = algorithm.prior.num_train_timesteps, algorithm.prior.noising.max_t
    steps = [] if algorithm.is_sampler else [round(t * T) if t <= 1 else round(t) for t in given]
    if any(t > T for t in steps):
        raise InputError(f"--log.timesteps {max(steps)}: the prior's timesteps end at {T - 1}")
    return list(dict.fromkeys(max(algorithm.min_t, min(t, last)) for t in steps))


def probe(
    algorithm: Method, z: torch.Tensor, particles: Particles, timesteps: list[int], progress: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The gradient at each of R timesteps, (R·B, C, h, w), and the clean latents of the same shape:
    {name: those of a prediction, "pseudo_gt": the pseudo ground truth}.

    The method's state and the run's random numbers are unaffected, and each call draws the same noise.
    """
    state, predictions = io.BytesIO(), algorithm.predictions
    torch.save(algorithm.state_dict(), state)  # in CPU memory: VSD's φ may not fit on a GPU twice
    gradients, clean = [], {}
    particles = particles.stream("probe")
    for timestep in timesteps:
        t = torch.full((len(z),), timestep)
        algorithm.predictions = {}
        gradients.append(algorithm.gradient(z, t, particles, progress))
        predicted = algorithm.predictions | {"pseudo_gt": algorithm.pseudo_gt(z, t, gradients[-1])}
        for name, latents in predicted.items():
            clean.setdefault(name, []).append(latents)
    state.seek(0)
    algorithm.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))
    algorithm.predictions = predictions
    return torch.cat(gradients), {name: torch.cat(rows) for name, rows in clean.items()}
