"""Measures a finished prior, as users get it, and writes the figures into its model card.

python -m priors.training.model_card            measures priors/emoji64 again
"""

import random
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKL, StableDiffusionPipeline
from tqdm import tqdm

from priors.files import checkpoint_file
from priors.training.config import Config, pictures
from priors.training.data import words
from recording.pictures import grid
from recording.scores import Judge, background_colours, draw_prompts, report, saturations, with_background

HERE = Path(__file__).resolve().parent

CARD = HERE / "model_card.md"


def real_pictures(pictures, count, seed=1):
    """`count` compositions of held-out placements → images, (phrase, background) pairs."""
    generator = torch.Generator().manual_seed(seed)
    drawings = torch.randint(len(pictures.pairs), (count,), generator=generator)
    images, backgrounds = pictures.draw(drawings, generator)
    colours = list(pictures.backgrounds)
    pairs = [(words(pictures.pairs[d][0]), colours[b]) for d, b in zip(drawings, backgrounds, strict=True)]
    return images.cpu(), pairs


def drawn_diversity(judge, pictures):
    """What a method's diversity and saturation are to be held against: two hands' drawings of each name, on white."""
    by_name = {}
    for index, (name, _) in enumerate(pictures.pairs):
        by_name.setdefault(name, []).append(index)
    pairs = torch.tensor([drawings[:2] for drawings in by_name.values() if len(drawings) > 1]).flatten()
    images = pictures.compose(pairs, torch.zeros_like(pairs), torch.zeros_like(pairs)).cpu()
    return f"{judge.diversity(images, 2):.3f}; {saturations(images).mean():.3f}"


@torch.no_grad()
def reconstruction(folder, images):
    """Mean PSNR in dB of images through the autoencoder, from the posterior's mean; pictures rounded as they are
    saved."""
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").float().eval()
    values = []
    for part in images.split(32):
        decoded = vae.decode(vae.encode(part * 2 - 1).latent_dist.mean).sample / 2 + 0.5
        values.append(-10 * (decoded.clamp(0, 1) - part).square().mean((1, 2, 3)).log10())
    return torch.cat(values).mean().item()


def sample(pipeline, prompts, guidance_scale, seed=0, batch=20):
    """DDIM, 50 steps: one picture for each (phrase, background), its noise from seed + its index → (N, 3, 64, 64)."""
    images = []
    for first in tqdm(range(0, len(prompts), batch), desc=f"sample at guidance {guidance_scale}"):
        texts = [with_background(*pair) for pair in prompts[first : first + batch]]
        generators = [torch.Generator().manual_seed(seed + first + row) for row in range(len(texts))]
        images.append(
            pipeline(
                texts, num_inference_steps=50, guidance_scale=guidance_scale, generator=generators, output_type="pt"
            ).images.cpu()
        )
    return torch.cat(images)


def measure(folder, held_out, scales, count=200):
    """The figures of the model card, as a dict of lines, and the contact sheet of the samples."""
    captions = checkpoint_file(folder, "captions.json")
    judge = Judge(folder / "clip")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    images, pairs = real_pictures(held_out, 1000)
    figures = {
        "reconstruction": f"{reconstruction(folder, images[:256]):.2f} dB",
        "retrieval": report(judge.ranks(images, pairs, captions), background_colours(images, captions), pairs),
    }
    figures["drawings"] = drawn_diversity(judge, held_out)
    prompts = draw_prompts(captions, count, seed=0)
    some = random.Random(0).sample(prompts, 48)
    best = (-1, None)
    for scale in scales:
        images = sample(pipeline, some, scale)
        ranks = judge.ranks(images, some, captions)
        print(f"guidance {scale}: {report(ranks, background_colours(images, captions), some)}", flush=True)
        best = max(best, (sum(rank == 0 for rank in ranks), scale))
    samples = sample(pipeline, prompts, best[1], seed=1000)
    ranks = judge.ranks(samples, prompts, captions)
    figures["guidance"] = f"{best[1]:g}"
    figures["sampling"] = report(ranks, background_colours(samples, captions), prompts)
    return figures, grid(samples[:100], [""] * 5, 20, 64)


def model_card(config, held_out):
    """Writes README.md and samples.png into the prior's folder, config.out."""
    folder = config.out
    figures, sheet = measure(folder, held_out, config.scales)
    # What training on from a finished prior leaves as it was is not counted again.
    parts = ("unet", "judge", "decoder") if config.start else ("vae", "clip", "unet", "judge", "decoder")
    figures["scales"] = ", ".join(f"{scale:g}" for scale in config.scales)
    figures["training"] = ", ".join(
        f"{getattr(config, f'{part}_steps'):,} steps of {getattr(config, f'{part}_batch')} ({part})" for part in parts
    )
    sheet.save(folder / "samples.png")
    captions = checkpoint_file(folder, "captions.json")
    names = "\n".join(f"- {category}: {', '.join(phrases)}" for category, phrases in captions["names"].items())
    weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors") if file.parent.name != "real")
    text = CARD.read_text(encoding="utf-8")
    for key, value in {**figures, "names": names, "megabytes": f"{weights / 1e6:.1f}"}.items():
        text = text.replace(f"{{{key}}}", value)
    (folder / "README.md").write_text(text, encoding="utf-8")
    for key, value in figures.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    model_card(config, pictures(config, config.seed + 1, 2, "held_out"))
