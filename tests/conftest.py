"""Priors for the tests: a Gaussian one in closed form, and small random checkpoints with Stable Diffusion's architectures."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prior import Prior  # noqa: E402

torch.set_num_threads(2)


class GaussianPrior(Prior):
    """Data N(m_y, s_y² I) for each prompt y, so the noise prediction is known (METHODS: exact tests without a network).

    "Text embeddings" are (N, 1, 2): the prompt's mean and deviation. Latents (1, 2, 2), float64, on Stable Diffusion's ᾱ.
    """

    def __init__(self, data, prediction_type="epsilon", steps=1000):
        self.data, self.prediction_type = data, prediction_type
        self.device, self.dtype = torch.device("cpu"), torch.float64
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
        self.alphas_cumprod = (1 - betas).cumprod(0)
        self.latent_shape, self.image_size = (1, 2, 2), 2

    def embed(self, prompts):
        return torch.tensor([[self.data[prompt]] for prompt in prompts], dtype=torch.float64)

    def warnings(self, prompt):
        return []

    def encode(self, images):
        return images.mean(1, keepdim=True)

    def decode(self, latents):
        return latents.expand(-1, 3, -1, -1)

    def network(self, z_t, t, text):
        m, s = text[:, 0, 0].view(-1, 1, 1, 1), text[:, 0, 1].view(-1, 1, 1, 1)
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (1 - a).sqrt() * (z_t - a.sqrt() * m) / (a * s**2 + 1 - a)
        if self.prediction_type == "epsilon":
            return noise
        clean = (z_t - (1 - a).sqrt() * noise) / a.sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean


def save_stable_diffusion(folder, version):
    """A random checkpoint with the architecture of Stable Diffusion 1.5 or 2.1, a fraction as wide, at 64×64 pixels."""
    import json

    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77
    ).save_pretrained(folder / "tokenizer")
    CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        hidden_act="quick_gelu" if version == "1.5" else "gelu", bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1,
    )).save_pretrained(folder / "text_encoder")  # fmt: skip
    head = dict(attention_head_dim=8) if version == "1.5" else dict(attention_head_dim=(1, 2, 4, 4), use_linear_projection=True)
    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16, 32, 32), norm_num_groups=4,
        layers_per_block=2, cross_attention_dim=32, **head,
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        sample_size=64, latent_channels=4, block_out_channels=(8, 8, 16, 16), layers_per_block=2, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")  # fmt: skip
    schedule = dict(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    if version == "1.5":
        scheduler = PNDMScheduler(**schedule, skip_prk_steps=True, steps_offset=1)
    else:
        scheduler = DDIMScheduler(**schedule, prediction_type="v_prediction", clip_sample=False, steps_offset=1)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.0", "feature_extractor": [None, None],
        "safety_checker": [None, None], "requires_safety_checker": False,
        "scheduler": ["diffusers", type(scheduler).__name__], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }))  # fmt: skip
    return folder


@pytest.fixture(scope="session", params=["1.5", "2.1"])
def stable_diffusion(request, tmp_path_factory):
    return save_stable_diffusion(tmp_path_factory.mktemp(f"sd-{request.param}"), request.param)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_stable_diffusion(tmp_path_factory.mktemp("tiny"), "1.5")


@pytest.fixture
def command():
    """Runs `python sds2d.py …` as a user would → the finished process."""

    def call(*arguments, **options):
        return subprocess.run(
            [sys.executable, ROOT / "sds2d.py", *map(str, arguments)], capture_output=True, text=True, **options
        )

    return call
