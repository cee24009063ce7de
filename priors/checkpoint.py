"""A prior from a checkpoint: a text-to-image pipeline of diffusers, in a folder or on the hub.

Everything is read from the checkpoint: the noise schedule, what the network predicts, the size and scale of its
latents, the maximum length of a prompt.
"""

import functools
import hashlib
import inspect
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt

from errors import InputError, first_line
from priors.autoencoder import Autoencoder, load_vae
from priors.conditions import Conditions
from priors.device import make_cuda_deterministic, pick_device
from priors.families import Family, pack, unpack
from priors.files import EMBEDDED, checkpoint_file, digest, fetch, load_part, locate, read_family, read_json, user_path
from priors.noising import read_noising
from priors.prior import Prior
from priors.settings import NonNegative


@dataclass
class PriorConfig:
    path: str = f"priors/{EMBEDDED.name}"
    """Folder or hub id of a checkpoint in diffusers' layout. The default ships with sds2d."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the networks; auto is float32 on a CPU, else float16 for UNets and bfloat16 for transformers.
    Latents and gradients are always float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the first of cuda, mps, cpu that is available."""
    compile: bool = False
    """Compile the denoiser before its first step (torch.compile): takes minutes, makes steps somewhat faster."""
    size: tuple[PositiveInt, ...] = ()
    """Height and width of the pictures in pixels, or one number for a square. None: the checkpoint's own."""
    variant: str | None = None
    """Variant of the weights to load, such as fp16 for files named model.fp16.safetensors."""
    vae: str | None = None
    """Folder or hub id of another autoencoder."""
    lora: tuple[str, ...] = ()
    """LoRAs to fuse into the prior, each PATH or PATH:SCALE: a folder, a file or a hub id."""
    distilled_guidance: NonNegative = 3.5
    """The guidance scale that a guidance-distilled prior (FLUX.1 dev, LCM) takes as an input."""
    chunk: NonNegativeInt = 0
    """Maximum number of rows per call of the denoiser: less memory, same result. 0: all at once."""
    offload: bool = False
    """Keep the autoencoder in CPU memory while it is not used."""
    gradient_checkpointing: bool = False
    """Recompute the activations of the autoencoder's encoder, and of a denoiser that learns (VSD, LODS), in the
    backward pass, to save memory."""


class Checkpoint(Prior):
    """The prior of a PriorConfig.

    folder    its files;  family  what is special about it (families.py)
    pipeline  diffusers' own, whose UNet or transformer is the denoiser;  conditions  its inputs for each prompt
    """

    def __init__(self, config: PriorConfig):
        import diffusers
        from transformers.utils import logging

        diffusers.utils.logging.set_verbosity_error()
        logging.disable_progress_bar()  # for reading weights; downloads keep theirs
        logging.set_verbosity_error()  # It would warn that torchvision is missing.
        folder = fetch(locate(config.path), config.variant)
        name, family = read_family(folder)
        device = torch.device(pick_device(config.device))
        low = "float16" if family.denoiser == "unet" else "bfloat16"
        dtype = config.dtype if config.dtype != "auto" else "float32" if device.type == "cpu" else low
        dtype = getattr(torch, dtype)
        if device.type == "cuda":
            make_cuda_deterministic()

        load = functools.partial(load_part, folder, family, dtype, config.variant)
        parts = {part: load(part) for part in family.parts if part != "vae"}
        vae = parts["vae"] = load_vae(folder, config.vae, family, config.variant)
        check_parts(parts, folder, name, family)
        self.config, self.folder, self.family = config, folder, family
        self.pipeline = make_pipeline(getattr(diffusers, name), parts, folder)
        for lora in config.lora:
            fuse_lora(self.pipeline, lora)
        denoiser, scheduler = parts[family.denoiser], parts["scheduler"]
        pixels = self.pipeline.vae_scale_factor if vae else 1  # per latent, along one side
        height, width = image_size = self.read_size(denoiser, pixels)
        latent_shape = (denoiser.config.in_channels // (4 if family.packed else 1), height // pixels, width // pixels)
        scheduler_config = dict(scheduler.config, _class_name=type(scheduler).__name__)
        tokens = latent_shape[1] * latent_shape[2] // family.patch**2
        # FLUX rounds the timestep to its own precision; use the noise of the rounded one.
        time_dtype = dtype if family.packed else torch.float64
        noising = read_noising(scheduler_config, tokens, family.time_scale(denoiser.config), time_dtype)
        distilled = not family.guided or bool(denoiser.config.get("time_cond_proj_dim"))
        super().__init__(
            noising,
            denoiser,
            latent_shape,
            image_size,
            device=device,
            dtype=dtype,
            chunk=config.chunk,
            autoencoder=Autoencoder(vae, device, dtype, family.upcast, config.offload) if vae else None,
            distilled=distilled,
            scheduler_config=scheduler_config,
        )
        self.conditions = Conditions(
            self.pipeline,
            image_size,
            device,
            dtype,
            reload=None if config.lora else load,  # The files do not include a LoRA.
            distilled_guidance=config.distilled_guidance if distilled else None,
            taught=checkpoint_file(folder, "captions.json").get("words", ()),
        )
        self.prepare_networks()

    def read_size(self, denoiser: torch.nn.Module, pixels: int) -> tuple[int, int]:
        """(H, W) of the pictures: --prior.size, or the checkpoint's own. pixels: per latent, along one side."""
        family, size, multiple = self.family, self.config.size, pixels * self.family.patch
        own = self.pipeline.default_sample_size if family.packed else denoiser.config.sample_size  # in latents
        own = [side * pixels for side in ([own, own] if isinstance(own, int) else own or ())]
        size = (size * 2 if len(size) == 1 else size) or own
        if len(size) != 2 or any(side % multiple for side in size):
            given = " ".join(map(str, self.config.size)) or "is not known of this checkpoint"
            raise InputError(f"--prior.size {given}: height and width, multiples of {multiple}, are needed")
        if min(size) < family.least_size:
            breaks = f"{family.name} breaks below {family.least_size} pixels"
            print(f"warning: --prior.size {size[0]} {size[1]}: {breaks}", file=sys.stderr)
        return tuple(size)

    def prepare_networks(self) -> None:
        """Memory layout, gradient checkpointing and compilation, which change nothing that is computed."""
        if self.device.type == "cpu" and self.family.denoiser == "unet":
            self.denoiser.to(memory_format=torch.channels_last)  # convolutions 7 to 15 % faster on a CPU
        networks = [self.denoiser, *([self.autoencoder.vae] if self.autoencoder else [])]
        for network in networks if self.config.gradient_checkpointing else ():
            if network._supports_gradient_checkpointing:
                network.enable_gradient_checkpointing()
            else:
                name = type(network).__name__
                print(f"warning: --prior.gradient-checkpointing: diffusers has none for {name}", file=sys.stderr)
        if self.config.compile:
            if self.device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
                raise InputError("--prior.compile needs a C++ compiler, g++ or clang++, on the PATH")
            self.denoiser.compile()

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the files that the prior is loaded from."""
        own, names = digest(self.folder, self.config.variant), [self.config.vae, self.config.lora]
        if not any(names):
            return own
        paths = [self.config.vae, *(split_lora(lora)[0] for lora in self.config.lora)]
        extra = [user_path(path) for path in paths if path]
        files = sorted(file for path in extra for file in (path.rglob("*.safetensors") if path.is_dir() else [path]))
        sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
        return hashlib.sha256(str([own, sums, names]).encode()).hexdigest()  # Hub ids have no files here.

    def encode_prompt(self, prompts: list[str], negative: bool = False) -> torch.Tensor:
        return self.conditions.encode_prompt(prompts, negative)

    def learn(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.nn.Parameter]]:
        return self.conditions.learn(y)

    def warnings(self, prompt: str) -> list[str]:
        return self.conditions.warnings(prompt)

    def free_text_encoders(self) -> None:
        """Frees the text encoders and moves the denoiser to the device: they need not fit there together. A new prompt
        loads them again."""
        if self.conditions.loaded:
            self.conditions.free()
            torch.cuda.empty_cache()  # for other processes on this GPU
            self.denoiser.to(self.device)

    def denoise(self, x: torch.Tensor, time: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.free_text_encoders()
        # With a graph, use forward, which --prior.compile does not compile: compiling a backward pass takes minutes.
        network = self.denoiser.forward if torch.is_grad_enabled() else self.denoiser
        given = self.conditions.arguments(tuple(y.tolist()))
        output = network(pack(x) if self.family.packed else x, timestep=time, **given, return_dict=False)[0]
        return unpack(output, *x.shape[-2:]) if self.family.packed else output[:, : x.shape[1]]


def make_pipeline(cls: type, parts: dict, folder: Path):
    """The diffusers pipeline of these parts, without those that only process finished pictures."""
    zeros = read_json(folder / "model_index.json").get(
        "force_zeros_for_empty_prompt", True
    )  # as Stable Diffusion XL has
    none = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker", "image_encoder"))
    given = {**parts, **none, "requires_safety_checker": False, "force_zeros_for_empty_prompt": zeros}
    known = inspect.signature(cls.__init__).parameters
    pipeline = cls(**{name: value for name, value in given.items() if name in known})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fuse_lora(pipeline, lora: str) -> None:
    """Fuses the LoRA PATH or PATH:SCALE permanently into the denoiser and the text encoders."""
    path, scale = split_lora(lora)
    try:
        pipeline.load_lora_weights(str(user_path(path)))
        pipeline.fuse_lora(lora_scale=scale)
        pipeline.unload_lora_weights()
    except Exception as error:
        raise InputError(f"--prior.lora {lora} cannot be fused ({first_line(error)})") from error


def split_lora(lora: str) -> tuple[str, float]:
    """PATH or PATH:SCALE → the path, and the scale or 1."""
    path, _, scale = lora.rpartition(":")
    try:
        return (path, float(scale)) if path else (lora, 1.0)
    except ValueError:
        return lora, 1.0


def check_parts(parts: dict, folder: Path, name: str, family: Family) -> None:
    """Raises InputError if the denoiser's config is not that of a text-to-image model, or parts do not match. name: the
    pipeline's class."""
    config, vae = parts[family.denoiser].config, parts["vae"]
    place = f"--prior.path {folder}: its {family.denoiser}"
    known = ("text", "text_proj", *(["text_time"] if "XL" in name else []))
    for field in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "addition_embed_type"):
        if (value := config.get(field)) and value not in known:
            raise InputError(f"{place} has {field} {value}, which a {name} does not give")
    channels, latents = config.in_channels, vae.config.latent_channels if vae else 3
    latents *= 4 if family.packed else 1
    if channels != latents:
        raise InputError(f"{place} takes {channels} channels, not {latents}: no text-to-image prior (inpainting?)")
    out = config.get("out_channels") or channels
    if out != channels * (2 if family.variance else 1) and out != channels:
        raise InputError(f"{place} gives {out} channels; {channels} are needed")
    for part, tokenizer in parts.items():
        encoder = parts.get(part.replace("tokenizer", "text_encoder"))
        if not part.startswith("tokenizer") or encoder is None:
            continue
        if len(tokenizer) > encoder.config.vocab_size:
            knows = f"knows {len(tokenizer)} tokens, its text encoder {encoder.config.vocab_size}"
            raise InputError(f"--prior.path {folder}: its {part} {knows}")
        longest = getattr(encoder.config, "max_position_embeddings", None) or 10**6
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
