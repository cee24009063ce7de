"""The families of priors: which diffusers pipelines are supported, and what is special about each.

What a pipeline gives its denoiser besides the latents differs between families: pooled embeddings, sizes, masks,
position ids, guidance, prefixes of the prompt. None of that is reimplemented here: the pipeline itself is called, and
the arguments that it gives its denoiser are captured.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

CLIP, T5 = ("CLIPTokenizer", "CLIPTokenizerFast"), ("T5Tokenizer", "T5TokenizerFast")
TEXT, PROJECTED = ("CLIPTextModel",), ("CLIPTextModelWithProjection",)
T5_TEXT = ("T5EncoderModel",)
KL = ("AutoencoderKL", "AutoencoderTiny")
UNET = ("UNet2DConditionModel",)
SCHEDULERS = (
    *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "UniPCMultistepScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DEISMultistepScheduler", "DPMSolverSDEScheduler", "SASolverScheduler", "TCDScheduler", "LCMScheduler"),
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


@dataclass(frozen=True)
class Family:
    """parts: {part: its supported classes}; those in `optional` may be missing."""

    name: str
    parts: dict[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()
    patch: int = 1
    """Side of the square of latents that makes one token."""
    packed: bool = False
    """Whether the denoiser takes tokens (N, L, 4C) instead of latents. FLUX does."""
    guided: bool = True
    """Whether a call with guidance has rows for the unconditional and for the prompt. FLUX has only the prompt's."""
    variance: bool = False
    """Whether the denoiser also predicts a variance, in extra channels, which is not used."""
    time_scale: Callable = field(default=lambda config: None)
    """A flow's denoiser takes σ times this function of its config as its time; None: T."""
    upcast: bool = False
    """Whether the autoencoder is float32 instead of float16, if its config has force_upcast (default: true)."""
    least_size: int = 0
    """Sides in pixels below which the family is known to break."""

    @property
    def denoiser(self) -> str:
        return "unet" if "unet" in self.parts else "transformer"


SD = {"tokenizer": CLIP, "text_encoder": TEXT, "unet": UNET, "vae": KL, "scheduler": SCHEDULERS}
SECOND = {"tokenizer_2": CLIP, "text_encoder_2": PROJECTED}

FAMILIES = {
    "StableDiffusionPipeline": Family("Stable Diffusion 1, 2", SD),
    "StableDiffusionXLPipeline": Family("Stable Diffusion XL", SD | SECOND, least_size=512, upcast=True),
    "StableDiffusion3Pipeline": Family(
        "Stable Diffusion 3, 3.5",
        {"tokenizer": CLIP, "text_encoder": PROJECTED, "tokenizer_3": T5, "text_encoder_3": T5_TEXT}
        | SECOND
        | {"transformer": ("SD3Transformer2DModel",), "vae": KL, "scheduler": FLOWS},
        optional=("tokenizer_3", "text_encoder_3"),
        patch=2,
    ),
    "FluxPipeline": Family(
        "FLUX.1",
        {"tokenizer": CLIP, "text_encoder": TEXT, "tokenizer_2": T5, "text_encoder_2": T5_TEXT}
        | {"transformer": ("FluxTransformer2DModel",), "vae": KL, "scheduler": FLOWS},
        patch=2,
        packed=True,
        guided=False,
        time_scale=lambda config: 1.0,
    ),
    "PixArtSigmaPipeline": Family(
        "PixArt-Σ",
        {"tokenizer": T5, "text_encoder": T5_TEXT, "transformer": ("PixArtTransformer2DModel",)}
        | {"vae": KL, "scheduler": SCHEDULERS},
        patch=2,
        variance=True,
    ),
    "SanaPipeline": Family(
        "Sana",
        {"tokenizer": ("GemmaTokenizer", "GemmaTokenizerFast"), "text_encoder": ("Gemma2Model", "Gemma2ForCausalLM")}
        | {"transformer": ("SanaTransformer2DModel",), "vae": ("AutoencoderDC",), "scheduler": SCHEDULERS + FLOWS},
        time_scale=lambda config: 1000 * config.timestep_scale,
    ),
    "IFPipeline": Family(
        "DeepFloyd IF, stage 1",
        {"tokenizer": T5, "text_encoder": T5_TEXT, "unet": UNET, "scheduler": SCHEDULERS},
        variance=True,
    ),
}


class StopForward(Exception):
    """Stops a pipeline when it calls its denoiser."""


def capture_inputs(pipeline, prompt: str, negative: str | None, size: tuple[int, int], guidance: float) -> list[dict]:
    """The arguments that the pipeline gives its denoiser for a prompt, besides latents and timestep: {argument: value}
    per row, first the row of the negative prompt, if there is one (None: the pipeline's own unconditional), then the
    prompt's.

    A value is a tensor (1, …), a tensor shared by all rows, a number, or a dictionary of such.
    """
    calls, denoiser = [], getattr(pipeline, "unet", None) or pipeline.transformer

    def hook(module, args, kwargs):
        calls.append((len(args[0] if args else kwargs["hidden_states"]), kwargs))
        raise StopForward

    options = {"height": size[0], "width": size[1], "num_inference_steps": 2, "guidance_scale": guidance}
    options |= {"negative_prompt": negative, "use_resolution_binning": False, "clean_caption": False}
    known = inspect.signature(type(pipeline).__call__).parameters
    options = {name: value for name, value in options.items() if name in known and value is not None}
    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        pipeline(prompt, **options, generator=torch.Generator().manual_seed(0))  # not from the global generator
    except StopForward:
        pass
    finally:
        handle.remove()
    ((rows, kwargs),) = calls
    other = ("hidden_states", "timestep", "return_dict")
    given = {name: value for name, value in kwargs.items() if name not in other}
    return [row_of(given, row, rows) for row in range(rows)]


def row_of(value, row: int, rows: int):
    """One row of a tensor with `rows` rows, or of each in a dictionary; anything else as a whole."""
    if isinstance(value, dict):
        return {name: row_of(inner, row, rows) for name, inner in value.items() if inner is not None}
    has_rows = isinstance(value, torch.Tensor) and value.ndim and len(value) == rows
    return value[row : row + 1].clone() if has_rows else value


def join(rows: list[dict], dtype: torch.dtype) -> dict:
    """The arguments of a batch, from those of its rows. dtype: the denoiser's."""
    joined = {}
    for name, value in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(value, dict):
            value = join(values, dtype)
        elif isinstance(value, torch.Tensor):
            value = torch.cat(values) if value.ndim and len(value) == 1 else value
            value = value.to(dtype) if value.is_floating_point() else value
        joined[name] = value
    return joined


def pack(x: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, h, w) as tokens (N, h/2 · w/2, 4C), one per 2 × 2 patch."""
    N, C, h, w = x.shape
    return x.view(N, C, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(N, h // 2 * w // 2, 4 * C)


def unpack(tokens: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """The inverse of pack()."""
    N, _, channels = tokens.shape
    return tokens.view(N, h // 2, w // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(N, channels // 4, h, w)
