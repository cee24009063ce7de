"""The prior: a text-to-image checkpoint, in a folder or on the hub, behind a few functions.

Everything is read from the checkpoint: the noise schedule, what the network predicts, the size and scale of its
latents, the maximum length of a prompt. For methods, all families are one variance-preserving process (noising.py).
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
from priors.checkpoint import EMBEDDED, digest, fetch, locate, read_family, user_path
from priors.conditions import Conditions
from priors.device import make_cuda_deterministic, per_row, pick_device, to_device
from priors.families import pack, unpack
from priors.noising import read_noising, sampling_timesteps
from priors.pipeline import Pipeline
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


class Prior:
    """A frozen text-to-image diffusion model.

    noising         the noise schedule, a Noising;  alphas_cumprod: its ᾱ, float64 (T,), on the CPU
    latent_shape    (C, h, w) of one latent;  image_size  (H, W) of its picture in pixels
    vae             the autoencoder, or None: latents are pixels in [-1, 1]

    Timesteps t are always long (B,) on the CPU, so that code can depend on them without waiting for the GPU.
    """

    folder, vae, conditions, chunk, offload = None, None, None, 0, False
    scheduler_config = {}

    def __init__(self, config: PriorConfig):
        from transformers.utils import logging

        logging.disable_progress_bar()  # for reading weights; downloads keep theirs
        logging.set_verbosity_error()  # It would warn that torchvision is missing.
        self.config, self.folder = config, fetch(locate(config.path), config.variant)
        _, self.family = read_family(self.folder)
        self.device = torch.device(pick_device(config.device))
        low = "float16" if self.family.denoiser == "unet" else "bfloat16"
        dtype = config.dtype if config.dtype != "auto" else "float32" if self.device.type == "cpu" else low
        self.dtype = getattr(torch, dtype)
        if self.device.type == "cuda":
            make_cuda_deterministic()
        self.pipeline = pipeline = Pipeline(self.folder, config, self.dtype)
        self.denoiser, self.vae, self.scheduler_config = pipeline.denoiser, pipeline.vae, pipeline.scheduler_config
        self.distilled, self.chunk, self.offload = pipeline.distilled, config.chunk, config.offload

        self.image_size, channels = self.read_size(), self.denoiser.config.in_channels
        height, width = (side // pipeline.scale for side in self.image_size)
        self.latent_shape = (channels // (4 if self.family.packed else 1), height, width)
        # FLUX rounds the timestep to its own precision; use the noise of the rounded one.
        rounded = self.dtype if self.family.packed else torch.float64
        told = self.family.time_scale(self.denoiser.config)
        tokens = height * width // self.family.patch**2
        try:
            self.noising = read_noising(self.scheduler_config, tokens, told, rounded)
        except InputError as error:
            raise InputError(f"--prior.path {self.folder}: its scheduler cannot be used: {error}") from error
        self.conditions = Conditions(pipeline, self.image_size, self.device, self.dtype)
        if self.vae and not config.offload:
            self.vae.to(self.device)
        if self.device.type == "cpu" and self.family.denoiser == "unet":
            self.denoiser.to(memory_format=torch.channels_last)  # convolutions 7 to 15 % faster on a CPU
        if self.device.type == "cpu" and self.vae:
            self.vae.decoder.to(memory_format=torch.channels_last)  # 30 % faster
        for network in (self.denoiser, self.vae) if config.gradient_checkpointing else ():
            if network and network._supports_gradient_checkpointing:
                network.enable_gradient_checkpointing()
            elif network:
                name = type(network).__name__
                print(f"warning: --prior.gradient-checkpointing: diffusers has none for {name}", file=sys.stderr)
        if config.compile:
            if self.device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
                raise InputError("--prior.compile needs a C++ compiler, g++ or clang++, on the PATH")
            self.denoiser.compile()

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

    @functools.cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the files that the prior is loaded from; None if there are none."""
        if not self.folder:
            return None
        own = digest(self.folder, self.config.variant)
        extra = [user_path(path) for path in (self.config.vae, *self.pipeline.loras) if path]
        files = sorted(file for path in extra for file in (path.rglob("*.safetensors") if path.is_dir() else [path]))
        sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
        names = [self.config.vae, self.config.lora]  # Hub ids have no files here.
        return hashlib.sha256(str([own, sums, names]).encode()).hexdigest() if any(names) else own

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        return self.noising.alphas_cumprod

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    # ----------------------------------------------------------------------------------------------------------- text

    def encode_prompt(self, prompts: list[str], negative: bool = False) -> torch.Tensor:
        """Prompts (N) → `y` for model_output(): long (N,), on the CPU, the numbers of their conditions.

        negative: encode them as negative prompts, which differ in some families; "" is the pipeline's own
        unconditional.
        """
        return self.conditions.encode_prompt(prompts, negative)

    def learn(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.nn.Parameter]]:
        """Copies of the conditions y (B,) with trainable token embeddings → `y` for model_output() (B,), and the
        embeddings (1, L, D) of each, float32. They replace those of an earlier call."""
        return self.conditions.learn(y)

    def warnings(self, prompt: str) -> list[str]:
        """Parts of the prompt that the text encoder cannot use, as a list of lines: a cut-off end, words that are not
        in its training captions."""
        return self.conditions.warnings(prompt)

    # ---------------------------------------------------------------------------------------------------- pictures

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] → latents (B, C, h, w), differentiable: the posterior's mean in scaled
        units."""
        if not self.vae:
            return images * 2 - 1
        self.wake_vae()
        # A step's gradient needs all rows at once; sources and probes can take less memory.
        parts = (images * 2 - 1).to(self.vae.dtype).split(len(images) if torch.is_grad_enabled() else 4)
        latents = torch.cat([self.encode_part(part) for part in parts])
        return (latents.float() - (self.vae.config.get("shift_factor") or 0)) * self.vae.config.scaling_factor

    def encode_part(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, H, W) in [-1, 1], in the autoencoder's dtype → its latents, neither shifted nor scaled."""
        encoded = self.vae.encode(images)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean
        return encoded.latents if hasattr(encoded, "latents") else encoded.latent  # AutoencoderTiny, AutoencoderDC

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W), float32, near [0, 1] and not clamped."""
        if not self.vae:
            return latents / 2 + 0.5
        self.wake_vae()
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0)
        # Four at a time: the decoder needs far more memory than the UNet, and no step waits for it.
        parts = latents.to(self.vae.dtype).split(4)
        images = torch.cat([self.vae.decode(part).sample.float() for part in parts]) / 2 + 0.5
        if self.offload and not torch.is_grad_enabled():
            self.vae.to("cpu")
        return images

    def wake_vae(self) -> None:
        if self.offload:
            self.vae.to(self.device)

    # --------------------------------------------------------------------------------------------------- diffusion

    def coefficients(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """√ᾱ_t and √(1-ᾱ_t) for t (B,), each (B, 1, 1, 1), in the dtype and on the device of `like`. Raises
        IndexError for t outside [0, T)."""
        if t.min() < 0:
            raise IndexError(f"timestep {t.min()} is below 0")  # It would index from the noisy end.
        a = self.alphas_cumprod[t]
        return per_row(a.sqrt(), like), per_row((1 - a).sqrt(), like)

    def add_noise(self, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t = √ᾱ_t z + √(1-ᾱ_t) ε."""
        alpha, sigma = self.coefficients(t, z)
        return alpha * z + sigma * noise

    def predict_clean(self, z_t: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ẑ_0 = (z_t - √(1-ᾱ_t) e) / √ᾱ_t, the clean latents for a noise prediction e."""
        alpha, sigma = self.coefficients(t, z_t)
        return (z_t - sigma * noise) / alpha

    def ddim_step(self, z_t: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """z_t' = √ᾱ_t' ẑ_0 + √(1-ᾱ_t') e, to a smaller (denoising) or larger (inversion) timestep. Song et al. 2020,
        eq. 12."""
        return self.add_noise(self.predict_clean(z_t, noise, t), noise, to)

    def free_text_encoders(self) -> None:
        """Frees the text encoders once all prompts are embedded, and moves the denoiser to the device: they need not
        fit there together."""
        if self.conditions and self.conditions.loaded:
            self.conditions.load(False)
            torch.cuda.empty_cache()  # for other processes on this GPU
            self.denoiser.to(self.device)

    def model_output(self, z_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The denoiser's raw output (ε̂, ẑ_0, v or a flow), in z_t's dtype: z_t (N, C, h, w), t (N,), y (N,)."""
        self.free_text_encoders()
        x, time = self.noising.scale[t], self.noising.time[t]
        x = (z_t if (x == 1).all() else per_row(x, z_t) * z_t).to(self.dtype)
        time = to_device(time if time.dtype == torch.long else time.float(), x.device)
        rows = self.chunk or len(x)
        parts = [self.denoise(*part) for part in zip(x.split(rows), time.split(rows), y.split(rows), strict=True)]
        return torch.cat(parts).to(z_t.dtype) if len(parts) > 1 else parts[0].to(z_t.dtype)

    def denoise(self, x: torch.Tensor, time: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One call of the denoiser with its scaled input x (N, C, h, w) and time input (N,)."""
        # With a graph, use forward, which --prior.compile does not compile: compiling a backward pass takes minutes.
        network = self.denoiser.forward if torch.is_grad_enabled() else self.denoiser
        given = self.conditions.arguments(tuple(y.tolist()))
        output = network(pack(x) if self.family.packed else x, timestep=time, **given, return_dict=False)[0]
        return unpack(output, *x.shape[-2:]) if self.family.packed else output[:, : x.shape[1]]

    def target(self, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The network's training target for add_noise(z, noise, t): ε, z, v = √ᾱ_t ε - √(1-ᾱ_t) z, or ε - z."""
        e, b = (per_row(values[t], z) for values in self.noising.target)
        return noise if self.noising.prediction_type == "epsilon" else e * noise + b * z

    def to_noise(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ε̂ from the model output at z_t; for a v-prediction (Salimans and Ho 2022, arXiv 2202.00512)
        √ᾱ_t v + √(1-ᾱ_t) z_t."""
        if self.noising.prediction_type == "epsilon":
            return output
        o, z = (per_row(values[t], z_t) for values in self.noising.noise)
        return o * output + z * z_t

    def to_clean(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ẑ_0 from the model output at z_t; finite even at ᾱ_t = 0, except for an ε-prediction."""
        o, z = (per_row(values[t], z_t) for values in self.noising.clean)
        return o * output + z * z_t

    def sampling_timesteps(self, steps: int) -> torch.Tensor:
        """A sampler's timesteps, long (steps,), falling."""
        return sampling_timesteps(self.scheduler_config, self.noising, steps)

    @property
    def final_alpha_cumprod(self) -> float:
        """ᾱ at which sampling ends: that of the least timestep if the checkpoint's scheduler says so, else 1."""
        return 1.0 if self.scheduler_config.get("set_alpha_to_one", True) else self.alphas_cumprod[0].item()

    @torch.no_grad()
    def predict(self, z_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """model_output() without an autograd graph."""
        return self.model_output(z_t, t, y)

    def predict_noise(self, z_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """ε̂(z_t; y, t), one call of the network, no autograd graph."""
        return self.to_noise(self.predict(z_t, t, y), z_t, t)

    def predict_all(self, z_t: torch.Tensor, t: torch.Tensor, *ys: torch.Tensor) -> list[torch.Tensor]:
        """predict() for several prompts with the same latents, in one call of the network; equal ones share a row."""
        which = [next(i for i, other in enumerate(ys) if torch.equal(y, other)) for y in ys]
        different = sorted(set(which))
        n, given = len(different), torch.cat([ys[i] for i in different])
        outputs = self.predict(torch.cat([z_t] * n), torch.cat([t] * n), given).chunk(n)
        return [outputs[different.index(i)] for i in which]

    def predict_noises(self, z_t: torch.Tensor, t: torch.Tensor, *ys: torch.Tensor) -> list[torch.Tensor]:
        """ε̂(z_t; y, t) for several prompts y with the same latents, in one call of the network."""
        return [self.to_noise(output, z_t, t) for output in self.predict_all(z_t, t, *ys)]

    def guided_output(self, z_t: torch.Tensor, t: torch.Tensor, y, y_negative, scale) -> torch.Tensor:
        """o(y⁻) + s (o(y) - o(y⁻)) for model outputs o, classifier-free guidance (Ho and Salimans 2022, arXiv
        2207.12598), in one call of 2B rows; B rows if s is 0 or 1, which needs only one of the two.

        scale: one number, or one per row, (B, 1, 1, 1)."""
        if not isinstance(scale, torch.Tensor) and scale in (0, 1):
            return self.predict(z_t, t, y if scale else y_negative)
        without, with_y = self.predict_all(z_t, t, y_negative, y)
        return without + scale * (with_y - without)

    def guided_noise(self, z_t: torch.Tensor, t: torch.Tensor, y, y_negative, scale) -> torch.Tensor:
        """ε̂^s = ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻))."""
        return self.to_noise(self.guided_output(z_t, t, y, y_negative, scale), z_t, t)
