"""Every noise schedule as a variance-preserving one: against diffusers' schedulers, and against the formulas."""

import diffusers
import pytest
import torch
from conftest import GaussianPrior, betas

from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles
from errors import InputError
from priors.noising import Noising, read_noising, sampling_timesteps


def config_of(scheduler):
    """As from a file, with the name of the class."""
    return dict(scheduler.config, _class_name=type(scheduler).__name__)


SCHEDULES = [
    dict(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    dict(beta_schedule="squaredcos_cap_v2"),
    dict(beta_schedule="sigmoid", beta_start=0.0001, beta_end=0.02),
    dict(trained_betas=[0.1, 0.2, 0.3, 0.4], num_train_timesteps=4),
    dict(beta_schedule="scaled_linear", rescale_betas_zero_snr=True),
    dict(num_train_timesteps=250),
]


@pytest.mark.parametrize("options", SCHEDULES, ids=str)
def test_discrete_schedules_are_diffusers(options):
    scheduler = diffusers.DDPMScheduler(**options)
    noising = read_noising(dict(scheduler.config), 64)
    torch.testing.assert_close(noising.alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)
    assert torch.equal(noising.time, torch.arange(len(noising.time))) and (noising.scale == 1).all()
    assert (noising.max_t == len(noising.time) - 2) == ("rescale_betas_zero_snr" in options)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_predictions_are_diffusers(prediction):
    """A step to the end of diffusers' DDIM gives the clean latents, and one back in between the noise."""
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    noising, output, z_t = (
        read_noising(dict(scheduler.config), 64),
        torch.randn(2, 4).double(),
        torch.randn(2, 4).double(),
    )
    for t in (0, 100, 900):
        expected = scheduler.step(output, t, z_t)
        (o, z), (n, m) = ([x[t] for x in pair] for pair in (noising.clean_from_output, noising.noise_from_output))
        torch.testing.assert_close(o * output + z * z_t, expected.pred_original_sample, rtol=1e-4, atol=1e-4)
        noise, a = n * output + m * z_t, scheduler.alphas_cumprod[t - 100].double() if t else torch.tensor(1.0)
        step = a.sqrt() * expected.pred_original_sample + (1 - a).sqrt() * noise
        torch.testing.assert_close(step, expected.prev_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow"])
def test_what_the_network_is_trained_to_say_is_read_back(prediction):
    a = (1 - betas()).cumprod(0)
    noising = Noising(a, torch.ones_like(a), torch.arange(1000), prediction)
    z, noise = torch.randn(1000).double(), torch.randn(1000).double()
    z_t = a.sqrt() * z + (1 - a).sqrt() * noise
    says = noising.target_from_noise[0] * noise + noising.target_from_noise[1] * z
    torch.testing.assert_close(noising.noise_from_output[0] * says + noising.noise_from_output[1] * z_t, noise)
    torch.testing.assert_close(noising.clean_from_output[0] * says + noising.clean_from_output[1] * z_t, z)


@pytest.mark.parametrize(
    "options, tokens, shift",
    [
        (dict(shift=1.0), 64, 1.0),
        (dict(shift=3.0), 64, 3.0),
        (dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15), 256, 2.718281828**0.5),
        (dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15), 4096, 2.718281828**1.15),
    ],
)
def test_flows(options, tokens, shift):
    """σ as diffusers shifts it; z and ε come back from what the network is told and says."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    noising = read_noising(config_of(scheduler), tokens)
    u = torch.arange(1, 1001).double() / 1000
    sigma = shift * u / (1 + (shift - 1) * u)
    torch.testing.assert_close(noising.time, 1000 * sigma)
    mu = dict(mu=0.5 + 0.65 * (tokens - 256) / 3840) if options.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], **mu)
    expected = scheduler.sigmas[:-1].double()
    torch.testing.assert_close(sigma[[999, 749, 499, 249]], expected, rtol=1e-5, atol=1e-6)
    z, noise = torch.randn(1000).double(), torch.randn(1000).double()
    x = (1 - sigma) * z + sigma * noise
    z_t = x / noising.scale
    torch.testing.assert_close(z_t, noising.alphas_cumprod.sqrt() * z + (1 - noising.alphas_cumprod).sqrt() * noise)
    torch.testing.assert_close(noising.clean_from_output[0] * (noise - z) + noising.clean_from_output[1] * z_t, z)
    assert noising.max_t == 998 and ((1 - sigma) / sigma)[noising.default_t_max] >= 1 / 13.05


def test_sana_of_a_multistep_solver_is_a_flow():
    options = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler = diffusers.DPMSolverMultistepScheduler(**options)
    noising, u = read_noising(config_of(scheduler), 64), torch.arange(1, 1001).double() / 1000
    torch.testing.assert_close(noising.time, 1000 * 3 * u / (1 + 2 * u))
    scheduler.set_timesteps(1000)
    torch.testing.assert_close(noising.time.flip(0) / 1000, scheduler.sigmas[:-1].double(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [10, 50, 250])
def test_sampling_timesteps_are_diffusers(spacing, steps):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    scheduler.set_timesteps(steps)
    config = dict(scheduler.config)
    assert torch.equal(sampling_timesteps(config, read_noising(config, 64), steps), scheduler.timesteps)


def test_sampling_begins_at_noise():
    """However few steps there are, and where T is no multiple of them."""
    for T, steps in ((1000, 4), (1000, 30), (999, 50), (100, 7), (1000, 1)):
        config = dict(num_train_timesteps=T)
        t = sampling_timesteps(config, read_noising(config, 64), steps)
        assert len(t) == steps and t[0] >= 0.8 * T and (t.diff() < 0).all() and t[-1] >= 0
    with pytest.raises(InputError, match="--steps 1001"):
        sampling_timesteps({}, read_noising({}, 64), 1001)


def test_predictions_that_are_not_known():
    with pytest.raises(InputError, match="score"):
        read_noising(dict(prediction_type="score"), 64)
    with pytest.raises(InputError, match="invert_sigmas"):
        read_noising(dict(_class_name="FlowMatchEulerDiscreteScheduler", invert_sigmas=True), 64)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "flow"])
@pytest.mark.parametrize("method", [name for name in ALGORITHMS if name != "sdedit"])
def test_gradients_are_the_same_whatever_the_network_says(prediction, method):
    """On the exact Gaussian prior, where all of them say the same."""
    gradients, cls = [], ALGORITHMS[method]
    for kind in ("epsilon", prediction):
        prior = GaussianPrior({"": (0.0, 1.0), "a": (0.7, 0.3)}, kind)
        prior.scheduler_config["timestep_spacing"] = "trailing"
        prior.encode_prompt = lambda prompts, negative=False, encode_prompt=prior.encode_prompt: encode_prompt(
            [prompt if prompt in ("", "a") else "" for prompt in prompts]
        )
        draw = torch.Generator().manual_seed(0)
        z, images = (torch.rand(2, n, 2, 2, dtype=torch.float64, generator=draw) for n in (1, 3))
        source = dict(source_prompts=["", ""], source_images=images) if cls.edits else {}
        config = AlgorithmConfig(name=method, guidance_scale=7.5)
        particles = Particles(prior, ["a", "a"], **source)
        algorithm = cls(prior, particles, config, 10)
        if hasattr(algorithm, "noise"):
            algorithm.noise = algorithm.noise.double()
        t = torch.tensor([699, 699] if cls.is_sampler else [700, 699])
        gradients.append(algorithm.gradient(z, t, particles, 0.3))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
