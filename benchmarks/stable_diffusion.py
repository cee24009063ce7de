"""A checkpoint with Stable Diffusion 1.5's whole architecture and random weights, for measures of time and memory."""

from pathlib import Path

import torch

from priors.checkpoint import EMBEDDED


def save_random(folder: Path, unet: dict | None = None, vae: dict | None = None, text: dict | None = None) -> Path:
    """Writes it into the folder, in half precision → the folder. unet, vae, text: what is to be otherwise.

    The tokenizer is the embedded prior's: a prompt is embedded once in a run, whatever its words.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    unet = {"sample_size": 64, "cross_attention_dim": 768} | (unet or {})
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512} | blocks | (vae or {})
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", model_max_length=77)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = CLIPTextConfig(**sizes | (text or {}), **special, vocab_size=len(tokenizer))
    parts = {"vae": AutoencoderKL(**vae), "unet": UNet2DConditionModel(**unet), "text_encoder": CLIPTextModel(text)}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts["scheduler"] = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    none = dict.fromkeys(("safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(**parts, tokenizer=tokenizer, **none, requires_safety_checker=False)
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    return folder
