"""What a method sees: the clean images behind its predictions, at a step's own timesteps or at any others."""

import copy

import torch

from errors import InputError


def named_timesteps(named, algorithm):
    """--log.timesteps as this prior and this method can take them: raised to the least that the method needs, each once.

    Raises InputError for one beyond the prior's last.
    """
    T, least = len(algorithm.prior.alphas_cumprod), algorithm.least_timestep()
    if not algorithm.any_t:
        return []
    steps = [round(t * T) if t <= 1 else round(t) for t in named]
    if any(t > T for t in steps):
        raise InputError(f"--log.timesteps {max(steps)}: the prior's timesteps end at {T - 1}")
    return list(dict.fromkeys(max(least, min(t, T - 1)) for t in steps))


def predictions(prior, rows):
    """{name: clean latents (B, C, h, w)} that the noise predictions in prior.notes imply, for the first `rows` of each."""
    return {
        name: prior.predict_clean(z_t[:rows], noise[:rows], t[:rows])
        for name, (z_t, noise, t) in (prior.notes or {}).items()
    }


def look(algorithm, z, timesteps, progress):
    """The method's gradient at each of R timesteps, (R·B, C, h, w), and as {name: (R·B, C, h, w)} the clean latents that are
    predicted there and pseudo_gt, where the gradient points.

    Neither the method nor anybody's random numbers remember it, and each look draws the same noise as the last.
    """
    method, prior, gradients, seen = copy.copy(algorithm), algorithm.prior, [], {}
    with algorithm.particles.rehearsal():
        for timestep in timesteps:
            t = torch.full((len(z),), timestep)
            prior.notes = {}
            gradients.append(method.gradient(z, t, progress))
            clean = predictions(prior, len(z)) | {"pseudo_gt": method.points_at(z, t, gradients[-1])}
            for name, latents in clean.items():
                seen.setdefault(name, []).append(latents)
    prior.notes = None
    return torch.cat(gradients), {name: torch.cat(rows) for name, rows in seen.items()}
