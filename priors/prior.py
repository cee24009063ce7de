"""The prior: a Stable Diffusion checkpoint, in a folder or on the hub, behind a handful of methods.

Everything is read from the checkpoint: the noise schedule, what the network predicts, the size and scale of its
latents, how long a prompt may be. Nothing here knows which checkpoint it is.
"""

import functools
import os
import re
import shutil
import string
from dataclasses import dataclass
from typing import Literal

import torch

from errors import InputError, first_line
from priors.checkpoint import EMBEDDED, checkpoint_file, digest, fetch, locate, vet


@dataclass
class PriorConfig:
    path: str = f"priors/{EMBEDDED.name}"
    """Folder or hub id of a Stable Diffusion checkpoint in diffusers' layout. The default ships with sds2d."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the networks; auto is float16 on CUDA, else float32. Latents and gradients are always float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the first of cuda, mps, cpu that is there."""
    compile: bool = False
    """Compile the UNet before its first step (torch.compile): minutes, for steps that are somewhat quicker."""


class Prior:
    """A frozen text-to-image latent diffusion model.

    alphas_cumprod  ᾱ, float64 (T,), on the CPU
    latent_shape    (C, h, w) of one latent;  image_size  side of its square picture in pixels

    Timesteps t are long (B,) on the CPU everywhere: what a step does may depend on them, and no GPU is waited for.

    folder: of the checkpoint's files.
    """

    folder = None

    def __init__(self, config: PriorConfig):
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils.logging import disable_progress_bar

        self.folder = path = fetch(locate(config.path))
        vet(path)
        self.device = torch.device(pick_device(config.device))
        dtype = {"cuda": "float16"}.get(self.device.type, "float32") if config.dtype == "auto" else config.dtype
        self.dtype = getattr(torch, dtype)
        if self.device.type == "cuda":
            repeat_on_cuda()

        disable_progress_bar()  # Bars for reading weights; a download keeps its own.

        def load(cls, part, **options):
            try:
                return cls.from_pretrained(path, subfolder=part, **options)
            except (
                Exception
            ) as error:  # whatever a library raises on a broken file, the user needs the part and the cause
                raise InputError(
                    f"--prior.path {path}: its {part} could not be loaded ({first_line(error)})"
                ) from error

        weights = dict(torch_dtype=self.dtype, use_safetensors=True, low_cpu_mem_usage=False)  # True needs accelerate
        self.tokenizer = load(CLIPTokenizer, "tokenizer")
        self.text_encoder = load(CLIPTextModel, "text_encoder", dtype=self.dtype, use_safetensors=True)
        if (
            len(self.tokenizer) != self.text_encoder.config.vocab_size
        ):  # A tokenizer without its files loads as an empty one.
            raise InputError(
                f"--prior.path {path}: its tokenizer knows {len(self.tokenizer)} tokens, its text_encoder "
                f"{self.text_encoder.config.vocab_size}"
            )
        self.unet = load(UNet2DConditionModel, "unet", **weights)
        self.vae = load(AutoencoderKL, "vae", **weights)
        for network in (self.text_encoder, self.unet, self.vae):
            network.to(self.device).eval().requires_grad_(False)
        if self.device.type == "cpu":
            self.unet.to(
                memory_format=torch.channels_last
            )  # its convolutions are 7 to 15 % quicker; on CUDA not measured yet
        if config.compile:
            if self.device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
                raise InputError("--prior.compile needs a C++ compiler, g++ or clang++, on the PATH")
            self.unet.compile()

        # DDPMScheduler reads the config of any discrete scheduler and derives the ᾱ that the network was trained with.
        scheduler = load(DDPMScheduler, "scheduler")
        self.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
        self.scheduler_config = scheduler.config
        self.prediction_type = scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise InputError(f"--prior.path {path} predicts {self.prediction_type}; epsilon or v_prediction is needed")

        channels, size = self.unet.config.in_channels, self.unet.config.sample_size
        if channels != self.vae.config.latent_channels:
            raise InputError(
                f"--prior.path {path}: a UNet of {channels} input channels is no text-to-image prior (inpainting?)"
            )
        self.latent_shape = (channels, size, size)
        self.image_size = size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.text_length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        self.taught = set(checkpoint_file(path, "captions.json").get("words", ()))
        self._embeddings = {}

    @functools.cached_property
    def sha256(self):
        """Of the checkpoint's files; None where there are none."""
        return digest(self.folder) if self.folder else None

    # ------------------------------------------------------------------------------------------------------- text

    def embed(self, prompts):
        """Text embeddings of a list of prompts (N, L, D) in the networks' dtype; each prompt is encoded once."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._embeddings:
                tokens = self.tokenizer(
                    prompt, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
                ).to(self.device)
                # Stable Diffusion's text encoders see the padding; only a checkpoint that says so masks it.
                mask = tokens.attention_mask if getattr(self.text_encoder.config, "use_attention_mask", False) else None
                with torch.no_grad():
                    hidden = self.text_encoder(tokens.input_ids, attention_mask=mask).last_hidden_state
                self._embeddings[prompt] = hidden[0].to(self.dtype)
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def warnings(self, prompt):
        """What of the prompt the text encoder can't use, as a list of lines: a cut-off end, words it was never
        taught."""
        lines = []
        ids = self.tokenizer(prompt, verbose=False).input_ids
        if len(ids) > self.text_length:
            unread = self.tokenizer.decode(ids[self.text_length - 1 : -1]).strip()
            lines.append(f"the text encoder reads {self.text_length - 2} tokens of a prompt; unread: {unread!r}")
        if self.taught:
            said = [word for word in re.findall(r"\w+|[^\w\s]", prompt.lower()) if word not in string.punctuation]
            unknown = [word for word in dict.fromkeys(said) if word not in self.taught]
            if unknown:
                lines.append(f"the prior was never taught: {', '.join(unknown)}")
        return lines

    # ---------------------------------------------------------------------------------------------------- pictures

    def encode(self, images):
        """Images (B, 3, H, W) in [0, 1] → latents (B, C, h, w), differentiable: the posterior's mean in scaled
        units."""
        mean = self.vae.encode((images * 2 - 1).to(self.dtype)).latent_dist.mean.float()
        return (mean - (self.vae.config.shift_factor or 0)) * self.vae.config.scaling_factor

    def decode(self, latents):
        """Latents (B, C, h, w) → images (B, 3, H, W), float32, near [0, 1] and not clamped."""
        latents = (latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)).to(self.dtype)
        # Four at a time: the decoder needs far more memory than the UNet, and no step waits for it.
        return torch.cat([self.vae.decode(part).sample.float() for part in latents.split(4)]) / 2 + 0.5

    # --------------------------------------------------------------------------------------------------- diffusion

    def coefficients(self, t, like):
        """√ᾱ_t and √(1-ᾱ_t) for t (B,), each (B, 1, 1, 1), in the dtype and on the device of `like`. Raises
        IndexError for t outside [0, T)."""
        if t.min() < 0:
            raise IndexError(f"timestep {t.min()} is below 0")  # which would count from the noisy end
        a = self.alphas_cumprod[t]
        return per_row(a.sqrt(), like), per_row((1 - a).sqrt(), like)

    def add_noise(self, z, noise, t):
        """z_t = √ᾱ_t z + √(1-ᾱ_t) ε."""
        alpha, sigma = self.coefficients(t, z)
        return alpha * z + sigma * noise

    def predict_clean(self, z_t, noise, t):
        """ẑ_0 = (z_t - √(1-ᾱ_t) e) / √ᾱ_t, the clean latents that a noise prediction e implies."""
        alpha, sigma = self.coefficients(t, z_t)
        return (z_t - sigma * noise) / alpha

    def ddim_step(self, z_t, noise, t, to):
        """z_t' = √ᾱ_t' ẑ_0 + √(1-ᾱ_t') e, to a timestep below (denoising) or above (inversion). Song et al. 2020,
        eq. 12."""
        return self.add_noise(self.predict_clean(z_t, noise, t), noise, to)

    def ddim_scheduler(self, steps):
        """diffusers' DDIMScheduler on the checkpoint's config, set to `steps` steps, for ε̂ and in double precision.

        Raises InputError for a number of steps whose timesteps do not begin near T, where latents are noise.
        """
        from diffusers import DDIMScheduler

        T = len(self.alphas_cumprod)
        first = (steps - 1) * (T // steps)
        if not 0.8 * T <= first < T - 1:
            raise InputError(
                f"--steps: {steps} steps of DDIM would begin at timestep {first} of {T}; "
                f"take a divisor of {T} from 5 to {T // 2}"
            )
        scheduler = DDIMScheduler.from_config(self.scheduler_config, prediction_type="epsilon", clip_sample=False)
        scheduler.alphas_cumprod = self.alphas_cumprod
        if not scheduler.config.set_alpha_to_one:
            scheduler.final_alpha_cumprod = self.alphas_cumprod[0]
        scheduler.set_timesteps(steps)
        return scheduler

    def network(self, z_t, t, text):
        """The UNet as it is, ε̂ or v, in the dtype of z_t: one call, for z_t (N, C, h, w), t (N,), text (N, L, D)."""
        # forward is the UNet that --prior.compile leaves alone: compiling the backward pass of one that learns
        # takes minutes.
        unet = self.unet.forward if torch.is_grad_enabled() else self.unet
        return unet(z_t.to(self.dtype), to_device(t, z_t.device), text).sample.to(z_t.dtype)

    def target(self, z, noise, t):
        """What the network was trained to say of add_noise(z, noise, t): ε, or v = √ᾱ_t ε - √(1-ᾱ_t) z."""
        if self.prediction_type == "epsilon":
            return noise
        alpha, sigma = self.coefficients(t, z)
        return alpha * noise - sigma * z

    def predict_noise(self, z_t, t, text):
        """ε̂(z_t; y, t), one call of the network, no autograd graph.

        A v-prediction (Salimans and Ho 2022, arXiv 2202.00512) is converted: ε̂ = √ᾱ_t v + √(1-ᾱ_t) z_t.
        """
        with torch.no_grad():
            output = self.network(z_t, t, text)
        if self.prediction_type == "epsilon":
            return output
        alpha, sigma = self.coefficients(t, z_t)
        return alpha * output + sigma * z_t

    def predict_noises(self, z_t, t, *texts):
        """ε̂(z_t; y, t) for several embeddings y of the same latents, in one call of the network, which is called
        once for an embedding that comes twice."""
        different = list({id(text): text for text in texts}.values())
        n = len(different)
        noises = self.predict_noise(torch.cat([z_t] * n), torch.cat([t] * n), torch.cat(different)).chunk(n)
        noise_of = dict(zip(map(id, different), noises, strict=True))
        return [noise_of[id(text)] for text in texts]

    def guided_noise(self, z_t, t, text, negative, scale):
        """ε̂^s = ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻)), classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), in
        one call of 2B; of B where s is 0 or 1 and one of the two is all there is to it."""
        if scale in (0, 1):
            return self.predict_noise(z_t, t, text if scale else negative)
        without, with_text = self.predict_noises(z_t, t, negative, text)
        return without + scale * (with_text - without)


def to_device(tensor, device):
    """A CPU tensor on the device, without making the CPU wait for what the GPU has queued."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def per_row(values, like):
    """Numbers (B,) on the CPU as (B, 1, 1, 1) in the dtype and on the device of `like`."""
    return to_device(values.to(like.dtype), like.device).view(-1, 1, 1, 1)


def repeat_on_cuda():
    """The same bytes from the same command, as far as PyTorch has deterministic kernels: it warns of an operation
    that has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def pick_device(name):
    """Resolves auto; raises InputError for a device that this machine lacks."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--prior.device {name} is not available here ({first_line(error)})") from error
    return name
