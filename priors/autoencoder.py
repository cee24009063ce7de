"""The autoencoder: pictures in [0, 1] to latents in the units that the denoiser takes, and back."""

from pathlib import Path

import torch

from errors import require
from priors.families import Family
from priors.files import checkpoint_file, download, load_class, load_part, user_path


class Autoencoder:
    """An autoencoder of diffusers: AutoencoderKL, AutoencoderTiny or AutoencoderDC.

    vae      the module, frozen, in a precision of its own;  device  where it computes
    offload  whether it is in CPU memory while it is not used
    """

    def __init__(self, vae: torch.nn.Module, device: torch.device, dtype: torch.dtype, upcast: bool, offload: bool):
        """vae: in float32. dtype: the denoiser's. upcast: float32 instead of float16, in which some overflow
        (threestudio #330), unless its config says that it was mended."""
        self.vae, self.device, self.offload = vae, device, offload
        if not (upcast and dtype == torch.float16 and vae.config.get("force_upcast")):
            vae.to(dtype)
        if not offload:
            vae.to(device)
        if device.type == "cpu":
            vae.decoder.to(memory_format=torch.channels_last)  # 30 % faster

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] → latents (B, C, h, w), float32, differentiable: the posterior's mean."""
        self.wake()
        # A step's gradient needs all rows at once; sources and probes can take less memory.
        parts = (images * 2 - 1).to(self.vae.dtype).split(len(images) if torch.is_grad_enabled() else 4)
        return self.normalize(torch.cat([self.mean(part) for part in parts]).float())

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W), float32, near [0, 1] and not clamped."""
        self.wake()
        # Four at a time: the decoder needs far more memory than the UNet, and no step waits for it.
        parts = self.denormalize(latents).to(self.vae.dtype).split(4)
        images = torch.cat([self.vae.decode(part).sample.float() for part in parts]) / 2 + 0.5
        if self.offload and not torch.is_grad_enabled():
            self.vae.to("cpu")
        return images

    def mean(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, H, W) in [-1, 1] → the autoencoder's own latents (n, C, h, w); both in its dtype."""
        encoded = self.vae.encode(images)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean
        return encoded.latents if hasattr(encoded, "latents") else encoded.latent  # AutoencoderTiny, AutoencoderDC

    def normalize(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's own latents → those that the denoiser takes, of a deviation near 1."""
        return (latents - (self.vae.config.get("shift_factor") or 0)) * self.vae.config.scaling_factor

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of normalize()."""
        return latents / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0)

    def wake(self) -> None:
        if self.offload:
            self.vae.to(self.device)


def load_vae(folder: Path, other: str | None, family: Family, variant: str | None) -> torch.nn.Module | None:
    """The autoencoder in a checkpoint's folder, in float32, or another, from a folder or the hub that has its
    config.json or vae/; None if the family has none. Raises InputError for one that is not of the family's classes."""
    known, place = family.parts.get("vae", ()), f"--prior.vae {other}"
    if other is None:
        place = f"--prior.path {folder}: its vae"
        vae = load_part(folder, family, torch.float32, variant, "vae") if known else None
    else:
        import diffusers  # It takes seconds, and config imports this file.

        folder = user_path(other)
        if not folder.is_dir():
            folder = download(other, ["config.json", "*.safetensors"], "--prior.vae")
        part = "" if (folder / "config.json").is_file() else "vae"
        name = checkpoint_file(folder / part, "config.json").get("_class_name")
        require(name in known, f"{place} is a {name}; {family.name} takes {' or '.join(known) or 'none'}")
        vae = load_class(getattr(diffusers, name), folder, part, place, torch.float32)
    means = vae and "AutoencoderKL" in type(vae).__name__ and vae.config.get("latents_mean")
    require(not means, f"{place} has latents_mean, which is not supported")
    return vae
