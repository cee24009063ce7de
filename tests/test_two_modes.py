"""What methods do where the prompt has two answers: a mixture of two narrow Gaussians at -1 and 1, an empty prompt
that is wide."""

import pytest
import torch
from conftest import GaussianPrior

from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles
from schedules.schedule import Schedule, ScheduleConfig

MODE = 0.1  # deviation of each mode
DATA = {"": [(0.5, 0.0, 1.0), (0.5, 0.0, 1.0)], "coin": [(0.25, -1.0, MODE), (0.75, 1.0, MODE)]}


def simulate(
    name,
    t_min,
    t_max,
    steps,
    s=1.0,
    lr=0.05,
    rows=64,
    timestep="uniform",
    start=0.0,
    noise=1.0,
    prompt="coin",
    **settings,
):
    """SGD on `rows` particles from their own noise → their pixels' means (rows,), and how far pixels differ within
    one."""
    prior = GaussianPrior(DATA)
    particles = Particles(prior, [prompt] * rows, "", 0)
    own = {name: ALGORITHMS[name].Settings(**settings)} if settings else {}
    method = ALGORITHMS[name](prior, particles, AlgorithmConfig(name=name, guidance_scale=s, **own), steps)
    config = ScheduleConfig(timestep=timestep, weight="constant", t_min=t_min, t_max=t_max)
    schedule = Schedule(config, prior, steps, method.min_t, method.timesteps)
    z = start + noise * particles.randn(*prior.latent_shape).double()
    for step in range(steps):
        t = schedule.timestep(step, particles)
        g = method.gradient(z, t, particles, step / steps)
        method.update(z, t, particles, step / steps)
        z = z - lr * g
    return z.mean((1, 2, 3)), z.flatten(1).std(1)


def test_sds_at_low_t_finds_the_nearest_mode():
    """Little noise: the other mode is out of sight, and a picture goes to the one it started next to, whatever its
    weight."""
    mean, within = simulate("sds", 0.02, 0.3, 300, start=-0.7, noise=0.0)
    torch.testing.assert_close(mean, torch.full_like(mean, -1), rtol=0, atol=0.1)
    mean, _ = simulate("sds", 0.02, 0.3, 300)
    assert ((mean.abs() - 1).abs() < 0.1).all() and 0.2 < (mean > 0).double().mean() < 0.8, (
        "one mode a particle, both in use"
    )
    assert (within < 0.05).all()


def test_sds_at_high_t_stays_between():
    """Much noise: the two modes are one hill around their mean, 0.5 (KL of a point against it), and nothing is on
    it."""
    mean, _ = simulate("sds", 0.85, 0.98, 600, lr=0.1)
    assert mean.mean().item() == pytest.approx(0.5, abs=0.1) and (mean.abs() < 0.8).all()


def test_sds_with_falling_t_finds_the_heavier_mode():
    """Where the hill's top has moved to the heavier mode before the other comes in sight."""
    mean, _ = simulate("sds", 0.02, 0.98, 300, timestep="hifa")
    torch.testing.assert_close(mean, torch.ones_like(mean), rtol=0, atol=0.1)


def test_ddim_covers_both():
    """Sampling: modes in their proportion, and spread as wide as the modes are."""
    mean, within = simulate("ddim", 0, 1, 100, lr=1.0, timestep="ddim", rows=256)
    assert ((mean.abs() - 1).abs() < 3 * MODE).all()
    # 256 draws of probability 3/4: deviation 0.027.
    assert (mean > 0).double().mean().item() == pytest.approx(0.75, abs=4 * 0.027)
    assert within.square().mean().sqrt().item() == pytest.approx(MODE, rel=0.3)


def test_csd_goes_beyond_its_mode():
    """Guidance alone wants what the prompt has more than the empty prompt: past the mode, away from the middle.

    Next to the mode m the mean gradient vanishes where A (z - m) = B z, A = E √(ᾱ(1-ᾱ))/D_mode, B = E √(ᾱ(1-ᾱ)), for an
    empty prompt of deviation 1.
    """
    mean, _ = simulate("csd", 0.02, 0.3, 600, s=None, start=0.9, noise=0.0)
    a = GaussianPrior(DATA).alphas_cumprod[20:301]
    A = ((a * (1 - a)).sqrt() / (a * MODE**2 + 1 - a)).mean()
    B = (a * (1 - a)).sqrt().mean()
    assert mean.mean().item() == pytest.approx((A / (A - B)).item(), abs=0.05) and A / (A - B) > 1.1


def test_vsd_spreads_what_sds_draws_together():
    """A broad prompt, N(0, 1), and particles too close to its middle: φ learns that they are, and VSD moves them apart.

    SDS draws them together whatever they are. (A linear φ can learn a Gaussian, not two modes.)
    """
    particles = {
        name: simulate(name, 0.2, 0.6, 300, noise=0.3, prompt="", **settings)[1].mean().item()
        for name, settings in (("sds", {}), ("vsd", dict(lora_lr=0.02)))
    }
    assert particles["sds"] < 0.1 and particles["vsd"] > 0.45
