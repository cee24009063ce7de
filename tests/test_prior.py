"""The prior reads everything from the checkpoint: held against diffusers' own pipeline on small Stable Diffusions."""

import gc
import json
import shutil
import weakref

import pytest
import torch
from conftest import betas

import sds2d
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig
from priors.files import locate
from priors.noising import Noising
from priors.prior import Prior


@pytest.fixture(scope="module")
def prior(stable_diffusion):
    return Checkpoint(PriorConfig(path=str(stable_diffusion)))


def pipeline(folder):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)


def test_noise_schedule_is_stable_diffusions(prior):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(prior.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-4, atol=1e-7)
    assert prior.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-5)


def test_sizes(prior):
    assert prior.latent_shape == (4, 8, 8) and prior.image_size == (64, 64) and prior.conditions.text_length == 77


def test_text_is_the_pipelines(prior, stable_diffusion):
    expected, empty = pipeline(stable_diffusion).encode_prompt("a red fox", "cpu", 1, True)
    text = prior.conditions.arguments(tuple(prior.encode_prompt(["a red fox", ""]).tolist()))
    assert list(text) == ["encoder_hidden_states"]
    torch.testing.assert_close(text["encoder_hidden_states"], torch.cat([expected, empty]))


def test_prompts_are_encoded_once(prior, monkeypatch):
    first = prior.encode_prompt(["once"])
    monkeypatch.setattr(prior.conditions, "condition", None)
    assert torch.equal(prior.encode_prompt(["once", "once"])[1], first[0])


def test_text_encoders_are_freed_and_come_back(tiny):
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    text, z, t = prior.encode_prompt(["a"]), torch.randn(1, *prior.latent_shape), torch.tensor([500])
    encoder = weakref.ref(prior.pipeline.text_encoder)
    before = prior.predict_noise(z, t, text)
    gc.collect()
    assert prior.pipeline.text_encoder is None and encoder() is None, "nothing else holds it"
    other = prior.encode_prompt(["b"])
    assert prior.pipeline.text_encoder is not None and other[0] != text[0]
    assert not torch.equal(prior.predict_noise(z, t, other), before) and prior.pipeline.text_encoder is None
    fresh = Checkpoint(PriorConfig(path=str(tiny)))
    assert torch.equal(fresh.predict_noise(z, t, fresh.encode_prompt(["b"])), prior.predict_noise(z, t, other))


def test_noise_prediction_agrees_with_ddim(prior, stable_diffusion):
    """One DDIM step of diffusers from t to 0-ish must land where our ε̂ says, for either prediction type."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_pretrained(stable_diffusion, subfolder="scheduler", clip_sample=False)
    scheduler.set_timesteps(1000)
    z_t, t = torch.randn(2, 4, 8, 8), torch.tensor([700, 700])
    text = prior.encode_prompt(["a", "b"])
    step = scheduler.step(prior.predict(z_t, t, text), 700, z_t)
    noise = prior.predict_noise(z_t, t, text)
    a = prior.alphas_cumprod[700]
    torch.testing.assert_close(
        (z_t - (1 - a).sqrt() * noise) / a.sqrt(), step.pred_original_sample, rtol=1e-4, atol=1e-4
    )


def test_guidance_is_diffusers_convention(prior, monkeypatch):
    """At 0 and 1 one of the two predictions is all there is to it, and half the rows of the network's."""
    z_t, t = torch.randn(2, 4, 8, 8), torch.tensor([40, 900])
    text, negative = prior.encode_prompt(["a fox", "a fish"]), prior.encode_prompt(["", ""])
    y, without = prior.predict_noise(z_t, t, text), prior.predict_noise(z_t, t, negative)
    rows, network = [], prior.model_output
    monkeypatch.setattr(prior, "model_output", lambda z_t, t, text: (rows.append(len(z_t)), network(z_t, t, text))[1])
    assert torch.equal(prior.guided_noise(z_t, t, text, negative, 0), without)
    assert torch.equal(prior.guided_noise(z_t, t, text, negative, 1.0), y)
    torch.testing.assert_close(
        prior.guided_noise(z_t, t, text, negative, 7.5), without + 7.5 * (y - without), rtol=1e-3, atol=1e-3
    )
    assert rows == [2, 2, 4]


def test_encoding_is_the_scaled_mean_and_differentiable(prior):
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    latents = prior.encode(images)
    mean = prior.autoencoder.vae.encode(images * 2 - 1).latent_dist.mean
    torch.testing.assert_close(latents, mean * 0.18215)
    latents.sum().backward()
    assert images.grad.abs().sum() > 0
    decoded = prior.autoencoder.vae.decode(latents.detach() / 0.18215).sample / 2 + 0.5
    torch.testing.assert_close(prior.decode(latents.detach()), decoded)


def test_shift_factor(prior):
    images, before = torch.rand(1, 3, 64, 64), prior.encode(torch.full((1, 3, 64, 64), 0.5))
    plain = prior.encode(images)
    prior.autoencoder.vae.register_to_config(shift_factor=0.3)
    try:
        torch.testing.assert_close(prior.encode(images), plain - 0.3 * 0.18215)
        torch.testing.assert_close(prior.decode(prior.encode(images)), prior.decode(plain - 0.3 * 0.18215))
    finally:
        prior.autoencoder.vae.register_to_config(shift_factor=None)
    torch.testing.assert_close(prior.encode(torch.full((1, 3, 64, 64), 0.5)), before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_networks_leave_float32_outside(tiny, dtype):
    prior = Checkpoint(PriorConfig(path=str(tiny), dtype=dtype))
    assert (
        prior.denoiser.dtype
        == prior.autoencoder.vae.dtype
        == prior.pipeline.text_encoder.dtype
        == getattr(torch, dtype)
    )
    z = prior.encode(torch.rand(1, 3, 64, 64))
    noise = prior.predict_noise(z, torch.tensor([500]), prior.encode_prompt(["a"]))
    assert z.dtype == noise.dtype == prior.decode(z).dtype == torch.float32
    full = Checkpoint(PriorConfig(path=str(tiny)))
    reference = full.predict_noise(z, torch.tensor([500]), full.encode_prompt(["a"]))
    assert (noise - reference).abs().max() < 0.05 * reference.abs().max()


def test_what_is_learned_from_is_not_compiled(tiny, monkeypatch):
    """Compiled, a backward pass takes minutes. The compiled network, here one that only says that it was called,
    has the rest."""
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    z, t, text = torch.randn(1, *prior.latent_shape), torch.tensor([500]), prior.encode_prompt(["a"])
    plain, called = prior.predict_noise(z, t, text), []
    monkeypatch.setattr(
        prior.denoiser,
        "_compiled_call_impl",
        lambda *x, **given: called.append(x) or prior.denoiser.forward(*x, **given),
    )
    assert torch.equal(prior.predict_noise(z, t, text), plain) and len(called) == 1
    assert torch.equal(prior.model_output(z, t, text), plain) and len(called) == 1


def test_warnings_name_what_is_unread(prior):
    words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(50)]  # two tokens a word in this vocabulary
    assert prior.warnings("a short one") == [] and prior.warnings(" ".join(words[:37])) == []
    (line,) = prior.warnings(" ".join(words))
    assert "75 tokens" in line and line.endswith(repr(" ".join([words[37][1], *words[38:]])))


def test_taught_words(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "taught")
    (folder / "captions.json").write_text(json.dumps({"words": ["a", "red", "apple"]}))
    prior = Checkpoint(PriorConfig(path=str(folder)))
    assert prior.warnings("A red apple") == []
    (line,) = prior.warnings("a Red zebra, a red quagga")
    assert line.endswith("zebra, quagga")


@pytest.mark.parametrize(
    "damage, part",
    [
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken"), "unet"),
        (lambda f: (f / "vae" / "config.json").unlink(), "vae"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer"),
        (lambda f: (f / "text_encoder" / "config.json").write_text("{"), "text_encoder"),
        (lambda f: shutil.rmtree(f / "scheduler"), "scheduler"),
    ],
)
def test_broken_checkpoints_name_the_part(tiny, tmp_path, damage, part):
    folder = shutil.copytree(tiny, tmp_path / "broken")
    damage(folder)
    with pytest.raises(InputError, match=part):
        Checkpoint(PriorConfig(path=str(folder)))


def test_locate(tiny, tmp_path):
    assert locate(str(tiny)) == tiny.resolve()
    assert locate("owner/name") == "owner/name"
    with pytest.raises(InputError, match="model_index.json"):
        locate(str(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        locate("/nowhere/at/all")


def test_a_prior_that_nobody_holds_is_freed(tiny):
    """A sweep over priors loads one after the other."""
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    prior.predict_noise(torch.randn(1, *prior.latent_shape), torch.tensor([500]), prior.encode_prompt(["a"]))
    gone = weakref.ref(prior.denoiser)
    del prior
    gc.collect()
    assert gone() is None


def test_a_prior_without_a_checkpoint(tmp_path):
    """Any network on pixels is one by the constructor alone; here the exact one for pictures that are m everywhere."""
    a, m = (1 - betas()).cumprod(0), torch.tensor([0.8, 0.2, 0.4]).view(3, 1, 1) * 2 - 1
    shapes = []

    def network(x, t, y):
        shapes.append((len(x), y.tolist()))
        alpha, sigma = (values[t].float().view(-1, 1, 1, 1) for values in (a.sqrt(), (1 - a).sqrt()))
        return (x - alpha * m) / sigma

    noising = Noising(a, torch.ones_like(a), torch.arange(1000), "epsilon")
    prior = Prior(noising, network, latent_shape=(3, 16, 16), image_size=(16, 16), chunk=3)
    images, t = torch.rand(4, 3, 16, 16), torch.tensor([20, 300, 600, 900])
    torch.testing.assert_close(prior.decode(prior.encode(images)), images)
    z = prior.encode(images)
    z_t = prior.add_noise(z, torch.randn_like(z), t)
    clean = prior.predict_clean(z_t, prior.predict_noise(z_t, t, prior.encode_prompt(["a", "b", "", "a"])), t)
    torch.testing.assert_close(clean, m.expand_as(z), rtol=1e-4, atol=1e-4)
    assert shapes == [(3, [0, 0, 0]), (1, [0])]
    with pytest.raises(InputError, match="no token embeddings"):
        prior.learn(torch.zeros(1, dtype=torch.long))
    flags = ["--rep.kind", "pixel", "--steps", "60", "--rep.lr", "0.05", "--particles", "1", "--eval.clip", "none"]
    flags += ["--algo.guidance-scale", "1", "--log.timesteps", "--out", str(tmp_path / "run")]
    picture, _ = sds2d.run(sds2d.parse(flags), prior)
    assert (picture - (m / 2 + 0.5)).abs().max() < 0.05
    with pytest.raises(InputError, match="--rep.kind latent"):
        sds2d.run(sds2d.parse(["--steps", "1", "--out", str(tmp_path / "latent")]), prior)
