"""A checkpoint with Stable Diffusion 1.5's whole architecture and random weights, for measures of time and memory."""

import torch

from priors.checkpoint import EMBEDDED

UNET = dict(
    sample_size=64,
    cross_attention_dim=768,
    block_out_channels=(320, 640, 1280, 1280),
    attention_head_dim=8,
    layers_per_block=2,
    down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
)
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    sample_size=512,
    norm_num_groups=32,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
)
TEXT = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    projection_dim=768,
)


def save_random(folder, unet=None, vae=None, text=None):
    """Writes it into the folder, in half precision → the folder. unet, vae, text: what is to be otherwise.

    The tokenizer is the embedded prior's: a prompt is embedded once in a run, whatever its words.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", model_max_length=TEXT["max_position_embeddings"])
    config = CLIPTextConfig(
        **{**TEXT, **(text or {})},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    parts = dict(
        unet=UNet2DConditionModel(**{**UNET, **(unet or {})}),
        vae=AutoencoderKL(**{**VAE, **(vae or {})}),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        scheduler=scheduler,
    )
    pipeline = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    return folder
