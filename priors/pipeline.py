"""A checkpoint as diffusers' own pipeline: its parts, loaded and checked, and its encoding of prompts."""

import inspect
from pathlib import Path

import torch

from errors import InputError, first_line
from priors.autoencoder import load_vae
from priors.families import capture_inputs
from priors.files import load_part, read_family, read_json, user_path


class Pipeline:
    """The diffusers pipeline for a folder and a PriorConfig.

    parts       {name: network, tokenizer or scheduler};  denoiser, vae (or None), scheduler_config: some of them
    family      its Family;  name  the diffusers class
    distilled   whether the guidance scale is an input of the denoiser, or part of its weights
    """

    def __init__(self, folder: Path, config, dtype: torch.dtype):
        import diffusers

        diffusers.utils.logging.set_verbosity_error()
        self.folder, self.config, self.dtype = folder, config, dtype
        self.name, self.family = read_family(folder)
        self.texts = [part for part in self.family.parts if part.startswith(("tokenizer", "text_encoder"))]
        self.parts = {part: self.load(part) for part in self.family.parts}
        self.denoiser, self.vae = self.parts[self.family.denoiser], self.parts.get("vae")
        scheduler = self.parts["scheduler"]
        self.scheduler_config = dict(scheduler.config, _class_name=type(scheduler).__name__)
        self.distilled = not self.family.guided or bool(self.denoiser.config.get("time_cond_proj_dim"))
        self.check()

        cls, index = getattr(diffusers, self.name), read_json(folder / "model_index.json")
        # Parts of IF and Stable Diffusion that process finished pictures are not needed.
        none = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker", "image_encoder"))
        settings = {name: index[name] for name in ("force_zeros_for_empty_prompt",) if name in index}
        given = {**self.parts, **none, **settings, "requires_safety_checker": False}
        known = inspect.signature(cls.__init__).parameters
        self.pipeline = cls(**{name: value for name, value in given.items() if name in known})
        self.pipeline.set_progress_bar_config(disable=True)
        self.loras = [self.fuse(lora) for lora in config.lora]

    @property
    def scale(self) -> int:
        """Pixels per latent, along one side."""
        return self.pipeline.vae_scale_factor if self.vae else 1

    @property
    def size(self) -> list[int]:
        """Height and width of the checkpoint's own pictures; [] if it does not say."""
        packed = self.family.packed
        own = self.pipeline.default_sample_size if packed else self.denoiser.config.sample_size
        return [side * self.scale for side in ([own] * 2 if isinstance(own, int) else own or ())]

    def load(self, part: str):
        """A network, tokenizer or scheduler."""
        if part == "vae":
            return load_vae(self.folder, self.config.vae, self.family, self.dtype, self.config.variant)
        return load_part(self.folder, part, self.family, self.dtype, self.config.variant)

    def fuse(self, lora: str) -> str:
        """Fuses the LoRA PATH or PATH:SCALE permanently into the denoiser and the text encoders → PATH."""
        path, _, scale = lora.rpartition(":")
        try:
            path, scale = (path, float(scale)) if path else (lora, 1.0)
        except ValueError:
            path, scale = lora, 1.0
        try:
            self.pipeline.load_lora_weights(str(user_path(path)))
            self.pipeline.fuse_lora(lora_scale=scale)
            self.pipeline.unload_lora_weights()
        except Exception as error:
            raise InputError(f"--prior.lora {lora} cannot be fused ({first_line(error)})") from error
        return path

    def check(self) -> None:
        """Raises InputError if the denoiser's config is not that of a text-to-image model, or parts do not match."""
        config, place = self.denoiser.config, f"--prior.path {self.folder}: its {self.family.denoiser}"
        known = ("text", "text_proj", *(["text_time"] if "XL" in self.name else []))
        for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "addition_embed_type"):
            if (value := config.get(name)) and value not in known:
                raise InputError(f"{place} has {name} {value}, which a {self.name} does not give")
        channels, latents = config.in_channels, self.vae.config.latent_channels if self.vae else 3
        latents *= 4 if self.family.packed else 1
        if channels != latents:
            raise InputError(f"{place} takes {channels} channels, not {latents}: no text-to-image prior (inpainting?)")
        out = config.get("out_channels") or channels
        if out != channels * (2 if self.family.variance else 1) and out != channels:
            raise InputError(f"{place} gives {out} channels; {channels} are needed")
        for name in self.texts:
            tokenizer, encoder = self.parts[name], self.parts[name.replace("tokenizer", "text_encoder")]
            if not name.startswith("tokenizer") or encoder is None:
                continue
            if len(tokenizer) > encoder.config.vocab_size:
                knows = f"knows {len(tokenizer)} tokens, its text encoder {encoder.config.vocab_size}"
                raise InputError(f"--prior.path {self.folder}: its {name} {knows}")
            longest = getattr(encoder.config, "max_position_embeddings", None) or 10**6
            tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        if self.vae and self.vae.config.get("latents_mean") and "AutoencoderKL" in type(self.vae).__name__:
            raise InputError(f"--prior.path {self.folder}: its vae has latents_mean, which is not supported")

    @torch.no_grad()
    def condition(self, prompt: str, negative: bool, size: tuple[int, int]) -> dict:
        """The denoiser's arguments for a prompt and pictures of size (H, W); (1, …) each. negative: encode it as a
        negative prompt; "" is then the pipeline's own unconditional."""
        scale = self.config.distilled_guidance if self.distilled else 2.0
        if self.distilled:
            return capture_inputs(self.pipeline, prompt, None, size, scale)[-1]
        rows = capture_inputs(
            self.pipeline, "" if negative else prompt, (prompt or None) if negative else None, size, scale
        )
        if len(rows) != 2:
            raise InputError(f"--prior.path {self.folder}: its pipeline takes no guidance")
        return rows[0 if negative else 1]

    def move_text(self, device: torch.device | None) -> None:
        """Moves the text encoders to a device, loading them from disk if needed; None frees their memory. With
        --prior.lora they stay in CPU memory instead, as their files do not include the LoRA."""
        for part in (part for part in self.texts if "encoder" in part):
            network = getattr(self.pipeline, part)
            if device is not None:
                network = network if network is not None else self.load(part)
                network = network and network.to(device)
            elif network is not None:
                network = network.to("cpu") if self.config.lora else None
            self.parts[part] = network
            setattr(self.pipeline, part, network)
