"""SDS against its formula, and its known end on a prior whose data are Gaussian."""

import pytest
import torch
from conftest import GaussianPrior

from algorithms import AlgorithmConfig
from algorithms.particles import Particles
from algorithms.sds import SDS

DATA = {"": (0.3, 0.5), "cat": (1.5, 0.7), "dog": (-2.0, 0.4), "bad": (-0.4, 0.9)}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, 100.0])
@pytest.mark.parametrize("negative", ["", "bad"])
def test_gradient_is_the_formula(prediction_type, scale, negative):
    prior = GaussianPrior(DATA, prediction_type)
    prompts = ["cat", "dog", "cat"]
    z = torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([20, 500, 979])
    gradient = SDS(prior, Particles(prior, prompts, negative, 11), AlgorithmConfig(guidance_scale=scale)).gradient(z, t)

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    for row in range(3):
        a = torch.prod(1 - betas[: t[row] + 1])
        noise = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(11 + row)).double()
        z_t = a.sqrt() * z[row] + (1 - a).sqrt() * noise

        def predicted(prompt, z_t=z_t, a=a):
            m, s = DATA[prompt]
            return (1 - a).sqrt() * (z_t - a.sqrt() * m) / (a * s**2 + 1 - a)

        expected = predicted(negative) + scale * (predicted(prompts[row]) - predicted(negative)) - noise
        torch.testing.assert_close(gradient[row], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_ends_where_theory_says(scale):
    """With point masses the gradient's mean vanishes at m_y⁻ + s (m_y - m_y⁻)."""
    prior = GaussianPrior({"": (0.2, 0.0), "cat": (0.7, 0.0)})
    particles = Particles(prior, ["cat"] * 4, "", 0)
    sds = SDS(prior, particles, AlgorithmConfig(guidance_scale=scale))
    z = torch.zeros(4, *prior.latent_shape, dtype=torch.float64)
    for _ in range(400):
        z = z - 0.1 * sds.gradient(z, particles.randint(300, 900))
    torch.testing.assert_close(z, torch.full_like(z, 0.2 + scale * 0.5), rtol=0, atol=1e-6)


def test_particles_do_not_depend_on_the_batch():
    """Row 2 of seed 7 is row 0 of seed 9: the same timesteps, noise and gradient."""
    prior = GaussianPrior(DATA)
    z = torch.randn(4, *prior.latent_shape, dtype=torch.float64)
    many, one = (Particles(prior, ["cat"] * n, "", seed) for n, seed in ((4, 7), (1, 9)))
    t_many, t_one = many.randint(20, 980), one.randint(20, 980)
    config = AlgorithmConfig(guidance_scale=7.5)
    g_many = SDS(prior, many, config).gradient(z, t_many)
    g_one = SDS(prior, one, config).gradient(z[2:3], t_one)
    assert t_many[2] == t_one[0]
    assert torch.equal(g_many[2], g_one[0])
    assert len(set(t_many.tolist())) > 1, "each particle has its own timestep"


def test_one_batched_call(monkeypatch):
    """Guidance costs one call of the network with 2B rows."""
    prior, calls = GaussianPrior(DATA), []
    network = prior.network
    monkeypatch.setattr(prior, "network", lambda z, t, text: (calls.append(len(z)), network(z, t, text))[1])
    particles = Particles(prior, ["cat"] * 3, "", 0)
    SDS(prior, particles, AlgorithmConfig(guidance_scale=7.5)).gradient(torch.zeros(3, 1, 2, 2), torch.tensor([1, 2, 3]))
    assert calls == [6]
