"""A prior from a checkpoint: a text-to-image pipeline of diffusers, in a folder or on the hub.

Everything is read from the checkpoint: the noise schedule, what the network predicts, the size and scale of its
latents, the maximum length of a prompt.
"""

import functools
import hashlib
import shutil
import sys
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt

from errors import InputError
from priors.autoencoder import Autoencoder
from priors.conditions import Conditions
from priors.device import make_cuda_deterministic, pick_device
from priors.families import pack, unpack
from priors.files import EMBEDDED, digest, fetch, locate, read_family, user_path
from priors.noising import Noising, read_noising
from priors.pipeline import Pipeline
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

    folder      its files;  family  what is special about it (families.py)
    denoiser    diffusers' own UNet or transformer;  conditions  its inputs for each prompt
    """

    def __init__(self, config: PriorConfig):
        from transformers.utils import logging

        logging.disable_progress_bar()  # for reading weights; downloads keep theirs
        logging.set_verbosity_error()  # It would warn that torchvision is missing.
        self.config, self.folder = config, fetch(locate(config.path), config.variant)
        _, self.family = read_family(self.folder)
        device = torch.device(pick_device(config.device))
        low = "float16" if self.family.denoiser == "unet" else "bfloat16"
        dtype = config.dtype if config.dtype != "auto" else "float32" if device.type == "cpu" else low
        dtype = getattr(torch, dtype)
        if device.type == "cuda":
            make_cuda_deterministic()
        self.pipeline = pipeline = Pipeline(self.folder, config, dtype)
        image_size, channels = self.read_size(), pipeline.denoiser.config.in_channels
        latent_shape = (channels // (4 if self.family.packed else 1), *(side // pipeline.scale for side in image_size))
        super().__init__(
            self.read_noising(latent_shape, dtype),
            pipeline.denoiser,
            latent_shape,
            image_size,
            device=device,
            dtype=dtype,
            chunk=config.chunk,
            autoencoder=Autoencoder(pipeline.vae, device, config.offload) if pipeline.vae else None,
            distilled=pipeline.distilled,
            scheduler_config=pipeline.scheduler_config,
        )
        self.conditions = Conditions(pipeline, image_size, device, dtype)
        self.prepare_networks()

    def read_size(self) -> tuple[int, int]:
        """(H, W) of the pictures: --prior.size, or the checkpoint's own."""
        size, multiple = list(self.config.size), self.pipeline.scale * self.family.patch
        size = (size * 2 if len(size) == 1 else size) or self.pipeline.size
        if len(size) != 2 or any(side % multiple for side in size):
            given = " ".join(map(str, self.config.size)) or "is not known of this checkpoint"
            raise InputError(f"--prior.size {given}: height and width, multiples of {multiple}, are needed")
        least, name = self.family.least_size, self.family.name
        if min(size) < least:
            print(f"warning: --prior.size {size[0]} {size[1]}: {name} breaks below {least} pixels", file=sys.stderr)
        return tuple(size)

    def read_noising(self, latent_shape: tuple[int, int, int], dtype: torch.dtype) -> Noising:
        """The noise schedule of the checkpoint's scheduler. Raises InputError for one that cannot be used."""
        _, height, width = latent_shape
        tokens, time_scale = (
            height * width // self.family.patch**2,
            self.family.time_scale(self.pipeline.denoiser.config),
        )
        # FLUX rounds the timestep to its own precision; use the noise of the rounded one.
        time_dtype = dtype if self.family.packed else torch.float64
        try:
            return read_noising(self.pipeline.scheduler_config, tokens, time_scale, time_dtype)
        except InputError as error:
            raise InputError(f"--prior.path {self.folder}: its scheduler cannot be used: {error}") from error

    def prepare_networks(self) -> None:
        """What costs nothing in quality: a faster memory layout, and the settings that save memory or time."""
        if self.device.type == "cpu" and self.family.denoiser == "unet":
            self.denoiser.to(memory_format=torch.channels_last)  # convolutions 7 to 15 % faster on a CPU
        networks = [network for network in (self.denoiser, self.pipeline.vae) if network]
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
        own = digest(self.folder, self.config.variant)
        extra = [user_path(path) for path in (self.config.vae, *self.pipeline.loras) if path]
        files = sorted(file for path in extra for file in (path.rglob("*.safetensors") if path.is_dir() else [path]))
        sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
        names = [self.config.vae, self.config.lora]  # Hub ids have no files here.
        return hashlib.sha256(str([own, sums, names]).encode()).hexdigest() if any(names) else own

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
