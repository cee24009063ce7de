"""Settings of the training of emoji64, and its pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch

from priors.training.data import Pictures, fetch, render_drawings
from priors.training.fit import save


@dataclass
class Config:
    work: Path = Path("outputs/train_emoji64")  # Drawings, renderings and checkpoints while training.
    out: Path = Path(__file__).resolve().parent.parent / "emoji64"  # Where the finished prior goes.
    start: Path | None = (
        None  # A finished prior to train on: autoencoder and text tower stay, the rest goes on from it.
    )
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    seed: int = 0
    scales: tuple[float, ...] = (2, 3, 5, 7.5)  # Guidance scales tried on 48 prompts; the best makes the 200 samples.
    variants: int = 24  # Random placements rendered of every drawing.
    spread: float = 0.25  # How far the UNet's drawings move about, of what the autoencoder's and the CLIP's do.
    vae_steps: int = 4000
    vae_batch: int = 8
    vae_lr: float = 1.5e-3
    decoder_steps: int = 5000
    decoder_batch: int = 8
    decoder_lr: float = 1e-3
    clip_steps: int = 1200
    clip_batch: int = 64  # Half as many names, each on two backgrounds.
    clip_lr: float = 1e-3
    judge_steps: int = 1000
    judge_batch: int = 128
    judge_lr: float = 2e-3
    unet_steps: int = 6000
    unet_batch: int = 32
    unet_lr: float = 1e-3


def pictures(config, seed, variants, name, spread=1.0):
    """Renders once, then reads from disk."""
    path = config.work / f"{name}.pt"
    if not path.exists():
        save(render_drawings(fetch(config.work / "packages"), variants, seed, spread), path)
    return Pictures(*torch.load(path), config.device)
