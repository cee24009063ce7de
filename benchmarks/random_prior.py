"""Checkpoints with the full architecture of a family and random weights, to measure time and memory."""

from pathlib import Path

import torch

from priors.files import EMBEDDED

SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3 = {"num_layers": 24, "num_attention_heads": 24, "pos_embed_max_size": 192, "caption_projection_dim": 1536}
# {name: (pipeline, part, class of the denoiser, its configuration, channels of the latents)}
ARCHITECTURES = {
    "sd15": ("StableDiffusion", "unet", "UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}, 4),
    "sdxl": ("StableDiffusionXL", "unet", "UNet2DConditionModel", SDXL, 4),
    "sd3": ("StableDiffusion3", "transformer", "SD3Transformer2DModel", SD3, 16),
    "flux": ("Flux", "transformer", "FluxTransformer2DModel", {"guidance_embeds": True}, 16),
}


def denoiser(name: str) -> torch.nn.Module:
    """The family's denoiser with random weights."""
    import diffusers

    _, _, cls, config, _ = ARCHITECTURES[name]
    return getattr(diffusers, cls)(**config)


def save_random(folder: Path, name: str, **parts) -> Path:
    """Writes a checkpoint in bfloat16 into the folder → the folder. parts: replacements for the family's parts.

    The text encoders have one layer and know only letters: a prompt is embedded once per run, then they are freed.
    """
    import diffusers
    import transformers

    pipeline, part, _, _, channels = ARCHITECTURES[name]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", model_max_length=77)
    special = {f"{key}_token_id": getattr(tokenizer, f"{key}_token_id") for key in ("bos", "eos", "pad")}

    def clip(width, projected):
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
        config = transformers.CLIPTextConfig(**sizes, **special, num_hidden_layers=1, vocab_size=len(tokenizer))
        return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": channels}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # FLUX has 12 billion weights to draw.
            network = denoiser(name)
        given = {"tokenizer": tokenizer, "vae": diffusers.AutoencoderKL(**vae, **blocks), part: network.cpu()} | parts
        torch.cuda.empty_cache()
        given["scheduler"] = flow if part == "transformer" else diffusers.DDIMScheduler(**betas, steps_offset=1)
        given.setdefault("text_encoder", clip(768, projected=name == "sd3"))
        if name in ("sdxl", "sd3"):
            given |= {"tokenizer_2": tokenizer, "text_encoder_2": clip(1280, projected=True)} | parts
        if name == "flux":
            pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz")]
            t5_tokenizer = transformers.T5Tokenizer(vocab=pieces)
            t5 = transformers.T5Config(d_model=4096, num_layers=1, num_heads=1, vocab_size=len(t5_tokenizer))
            given |= {"tokenizer_2": t5_tokenizer}
            given |= {"text_encoder_2": transformers.T5EncoderModel(t5)} | parts
    finally:
        torch.set_default_dtype(before)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    none = none if name == "sd15" else dict.fromkeys(("tokenizer_3", "text_encoder_3")) if name == "sd3" else {}
    getattr(diffusers, f"{pipeline}Pipeline")(**given, **none).save_pretrained(folder)
    return folder
