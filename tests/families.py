"""Checkpoints of every family with random weights, a fraction as wide as the real ones, built from configurations."""

import string
from pathlib import Path

import torch

LETTERS = string.ascii_lowercase + string.digits + " .,"


def clip_tokenizer():
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    font = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = font + [letter + "</w>" for letter in font] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def t5_tokenizer(length=77):
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS.replace(" ", "")]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], model_max_length=length)


def gemma_tokenizer():
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *LETTERS.replace(" ", ""), *string.ascii_uppercase, *"\n:-"]
    return GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=300)


def clip_text(tokenizer, projected=False, width=32):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = dict(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2)
    config = CLIPTextConfig(**sizes, **special, vocab_size=len(tokenizer), projection_dim=width)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_text(tokenizer, width=32):
    from transformers import T5Config, T5EncoderModel

    sizes = dict(d_model=width, d_kv=16, d_ff=2 * width, num_layers=2, num_heads=2)
    return T5EncoderModel(T5Config(**sizes, vocab_size=len(tokenizer), feed_forward_proj="gated-gelu"))


def autoencoder(channels=4, factor=8, **options):
    from diffusers import AutoencoderKL

    blocks = factor.bit_length()
    kinds = dict(down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks)
    sizes = dict(block_out_channels=(8, 8, 16, 16)[:blocks], layers_per_block=1, norm_num_groups=4, sample_size=64)
    return AutoencoderKL(**kinds, **sizes, latent_channels=channels, **options)


def unet(width=32, **options):
    from diffusers import UNet2DConditionModel

    sizes = dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    kinds = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
    kinds |= dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return UNet2DConditionModel(**sizes | kinds | dict(cross_attention_dim=width, attention_head_dim=8) | options)


BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def stable_diffusion(**options):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    scheduler = DDIMScheduler(**dict(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1) | options)
    parts = dict(vae=autoencoder(), text_encoder=clip_text(tokenizer), tokenizer=tokenizer, unet=unet())
    none = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return StableDiffusionPipeline(**parts, scheduler=scheduler, **none)


def sdxl(turbo=False):
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer()
    spacing = dict(timestep_spacing="trailing") if turbo else dict(steps_offset=1)
    # text_embeds of 32 and 6 sizes of 8 make 80.
    sdxl = dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80)
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025, force_upcast=True),
        text_encoder=clip_text(tokenizer),
        text_encoder_2=clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=unet(64, **sdxl),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, **spacing),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def sd3(t5=True):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer, third = clip_tokenizer(), t5_tokenizer() if t5 else None
    sizes = dict(sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4)
    sizes |= dict(caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64, out_channels=4)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**sizes, pos_embed_max_size=32),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer, projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_text(third, 64) if t5 else None,
        tokenizer_3=third,
    )


def flux(distilled=True):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    sizes = dict(patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16)
    sizes |= dict(num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8))
    shifts = dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15) if distilled else dict(shift=1.0)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**shifts),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5_text(t5),
        tokenizer_2=t5,
        transformer=FluxTransformer2DModel(**sizes, guidance_embeds=distilled),
    )


def pixart():
    from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer = t5_tokenizer(300)
    sizes = dict(sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8)
    sizes |= dict(num_attention_heads=4, cross_attention_dim=32, caption_channels=32, use_additional_conditions=False)
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_text(tokenizer),
        vae=autoencoder(scaling_factor=0.13025),
        transformer=PixArtTransformer2DModel(**sizes, norm_type="ada_norm_single"),
        scheduler=DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, clip_sample=False),
    )


def sana():
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, head_dim=16)
    text = Gemma2Model(Gemma2Config(**sizes, num_key_value_heads=1, vocab_size=len(tokenizer)))
    blocks = dict(encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16))
    blocks |= dict(encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), attention_head_dim=8)
    blocks |= dict(encoder_block_types=("ResBlock",) * 2, decoder_block_types=("ResBlock",) * 2)
    blocks |= dict(encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()))
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=AutoencoderDC(latent_channels=4, scaling_factor=0.41407, **blocks),
        transformer=SanaTransformer2DModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=16,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=32,
            patch_size=1,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def deepfloyd():
    from diffusers import DPMSolverMultistepScheduler, IFPipeline

    tokenizer = t5_tokenizer()
    options = dict(in_channels=3, out_channels=6, encoder_hid_dim=32, encoder_hid_dim_type="text_proj", sample_size=16)
    options |= dict(down_block_types=("SimpleCrossAttnDownBlock2D",) * 2, block_out_channels=(32, 32))
    options |= dict(up_block_types=("SimpleCrossAttnUpBlock2D",) * 2, norm_num_groups=8)
    options |= dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn", cross_attention_norm="group_norm")
    options |= dict(addition_embed_type="text", addition_embed_type_num_heads=2)
    # Of the first order it is DDIM, which has no variance_type.
    dpm = dict(beta_schedule="squaredcos_cap_v2", solver_order=1, timestep_spacing="trailing")
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_text(tokenizer),
        unet=unet(32, **options),
        scheduler=DPMSolverMultistepScheduler(**dpm, variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


BUILDERS = {
    "sd": stable_diffusion,
    "sd-v": lambda: stable_diffusion(prediction_type="v_prediction"),
    "sd-sample": lambda: stable_diffusion(prediction_type="sample"),
    "sd-zero-snr": lambda: stable_diffusion(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", set_alpha_to_one=True
    ),
    "sdxl": sdxl,
    "sdxl-turbo": lambda: sdxl(turbo=True),
    "sd3": sd3,
    "sd3-without-t5": lambda: sd3(t5=False),
    "flux-dev": flux,
    "flux-schnell": lambda: flux(distilled=False),
    "pixart": pixart,
    "sana": sana,
    "if": deepfloyd,
}


def save(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    pipeline = BUILDERS[name]()
    for part in pipeline.components.values():  # Some layers begin at zero, and would hide what comes before them.
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
    pipeline.save_pretrained(folder)
    return folder
