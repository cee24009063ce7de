"""Priors for the tests: a Gaussian one in closed form, and small random checkpoints with Stable Diffusion's
architectures."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

if "PYTEST_XDIST_WORKER" in os.environ:
    # pytest-xdist runs as many tests at once as there are cores: one core each, and said before OpenMP starts,
    # whose threads would wait for each other by spinning. The commands that tests start inherit it.
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nursery import Nursery  # noqa: E402

from priors.device import per_row  # noqa: E402
from priors.noising import Noising  # noqa: E402
from priors.prior import Prior  # noqa: E402

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


def betas(T=1000):
    """Stable Diffusion's β, float64."""
    return torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2


class GaussianUNet(torch.nn.Module):
    """The exact prediction for data N(m_y, s_y² I), or for a mixture of such, as METHODS.md has it.

    Conditions y are (N, K, 3): weight π_k, mean m_k and deviation s_k of each mode. to_q adds nothing until a
    LoRA is put on it.
    """

    def __init__(self, noising):
        super().__init__()
        self.noising = noising
        self.to_q = torch.nn.Linear(4, 4, bias=False, dtype=torch.float64).requires_grad_(False)
        self.to_q.weight.zero_()

    def forward(self, x, t, y):
        a = self.noising.alphas_cumprod[t].view(-1, 1)
        z_t = x / per_row(self.noising.scale[t], x)
        x = z_t.double().flatten(1)  # (N, d)
        weights, m, s = y.unbind(2)  # each (N, K)
        D = a * s**2 + 1 - a  # (N, K)
        off = x[:, None] - a.sqrt()[:, None] * m[..., None]  # (N, K, d)
        logits = weights.log() - x.shape[1] / 2 * D.log() - off.square().sum(2) / (2 * D)
        noise = (1 - a).sqrt() * (logits.softmax(1)[..., None] * off / D[..., None]).sum(1)
        clean = (x - (1 - a).sqrt() * noise) / a.sqrt()
        v = a.sqrt() * noise - (1 - a).sqrt() * clean
        output = {"epsilon": noise, "v_prediction": v, "sample": clean, "flow": noise - clean}
        return (output[self.noising.prediction_type] + self.to_q(x)).view_as(z_t)


class GaussianPrior(Prior):
    """A prior in closed form (METHODS.md: exact tests without a network): latents (1, 2, 2), float64, Stable
    Diffusion's ᾱ.

    data: {prompt: (mean, deviation)} or {prompt: [(weight, mean, deviation), …]}, a mixture with as many modes for
    each prompt. prediction_type "flow": the same process as a flow, x = (1 - σ) z + σ ε at the same σ/α.
    """

    def __init__(self, data, prediction_type="epsilon"):
        self.data = {y: [(1.0, *modes)] if isinstance(modes, tuple) else modes for y, modes in data.items()}
        a = (1 - betas()).cumprod(0)
        scale = 1 / (a.sqrt() + (1 - a).sqrt()) if prediction_type == "flow" else torch.ones_like(a)
        noising = Noising(a, scale, torch.arange(len(a)), prediction_type)
        options = dict(dtype=torch.float64, scheduler_config=dict(steps_offset=1, set_alpha_to_one=False))
        super().__init__(noising, GaussianUNet(noising), latent_shape=(1, 2, 2), image_size=(2, 2), **options)

    def encode_prompt(self, prompts, negative=False):
        return torch.tensor([self.data[prompt] for prompt in prompts], dtype=torch.float64)

    def learn(self, y):
        y = torch.nn.Parameter(y.clone())
        return y, [y]

    def encode(self, images):
        return images.mean(1, keepdim=True)

    def decode(self, latents):
        return latents.expand(-1, 3, -1, -1)


def save_stable_diffusion(folder, version):
    """A random checkpoint with the architecture of Stable Diffusion 1.5 or 2.1, a fraction as wide, at 64×64 pixels."""
    import json

    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    font = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = font + [letter + "</w>" for letter in font] + ["<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77
    ).save_pretrained(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_act="quick_gelu" if version == "1.5" else "gelu",
            bos_token_id=len(tokens) - 2,
            eos_token_id=len(tokens) - 1,
            pad_token_id=len(tokens) - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    head = (
        dict(attention_head_dim=8)
        if version == "1.5"
        else dict(attention_head_dim=(1, 2, 4, 4), use_linear_projection=True)
    )
    UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 32, 32),
        norm_num_groups=4,
        layers_per_block=2,
        cross_attention_dim=32,
        **head,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        sample_size=64,
        latent_channels=4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    schedule = dict(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    if version == "1.5":
        scheduler = PNDMScheduler(**schedule, skip_prk_steps=True, steps_offset=1)
    else:
        scheduler = DDIMScheduler(**schedule, prediction_type="v_prediction", clip_sample=False, steps_offset=1)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "_diffusers_version": "0.42.0",
                "feature_extractor": [None, None],
                "safety_checker": [None, None],
                "requires_safety_checker": False,
                "scheduler": ["diffusers", type(scheduler).__name__],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            }
        )
    )
    return folder


def pytest_addoption(parser):
    parser.addoption("--cuda", action="store_true", help="for the tests that need a GPU; the others compute on the CPU")


def pytest_configure(config):
    if not config.getoption("--cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also for the commands that tests start
    config.addinivalue_line("markers", "nightly: takes an hour; `pytest -m nightly` runs it")


def pytest_collection_modifyitems(config, items):
    if "nightly" not in config.option.markexpr:
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


@pytest.fixture(scope="session", params=["1.5", "2.1"])
def stable_diffusion(request, tmp_path_factory):
    return save_stable_diffusion(tmp_path_factory.mktemp(f"sd-{request.param}"), request.param)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_stable_diffusion(tmp_path_factory.mktemp("tiny"), "1.5")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """A plot takes longer than most tests' runs. test_schedules.py draws its own, and commands in other processes
    draw theirs."""
    import recording.recorder

    monkeypatch.setattr(recording.recorder, "plot_schedule", lambda path, schedule: path.write_bytes(b""))


@pytest.fixture(scope="session")
def nursery():
    """nursery.start(…): `python sds2d.py …` as a process that can be waited for, or killed."""
    nursery = Nursery()
    yield nursery
    nursery.process.kill()
    nursery.process.wait()


@pytest.fixture
def command(nursery):
    """Runs `python sds2d.py …` as a user would → the finished process; from its first import where it has an
    environment."""

    def call(*arguments, cwd=None, env=None):
        if env is not None:
            words = [sys.executable, ROOT / "sds2d.py", *map(str, arguments)]
            return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env)
        process = nursery.start(*arguments, cwd=cwd, threads=torch.get_num_threads())  # as the test itself
        stdout, stderr = process.communicate()
        return SimpleNamespace(returncode=process.returncode, stdout=stdout, stderr=stderr)

    return call
