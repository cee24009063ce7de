"""A checkpoint with Stable Diffusion 1.5's whole architecture and random weights, for measures of time and memory."""

import torch

from priors.checkpoint import EMBEDDED

# fmt: off
UNET = {
    "sample_size": 64, "cross_attention_dim": 768, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "attention_head_dim": 8, "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
}
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
    "norm_num_groups": 32, "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "max_position_embeddings": 77, "projection_dim": 768,
}
SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}
# fmt: on


def save_random(folder, unet=None, vae=None, text=None):
    """Writes it into the folder, in half precision → the folder. unet, vae, text: what is to be otherwise.

    The tokenizer is the embedded prior's: a prompt is embedded once in a run, whatever its words.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", model_max_length=TEXT["max_position_embeddings"])
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(**UNET | (unet or {})),
        vae=AutoencoderKL(**VAE | (vae or {})),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT | (text or {}), **special, vocab_size=len(tokenizer))),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(**SCHEDULE),
        **dict.fromkeys(("safety_checker", "feature_extractor"), None),
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    return folder
