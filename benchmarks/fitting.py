"""`python benchmark.py fitting`: how well Gaussians fit pictures."""

import tempfile
import time
from types import SimpleNamespace

import torch
from PIL import Image

from algorithms.particles import Particles
from config import parse
from priors.checkpoint import locate
from representations import RepresentationConfig
from representations.gaussian2d import Gaussian2D
from representations.start import load_image


def main(arguments):
    """500 on the drawings of the checkpoint's edits in 300 steps, 5,000 on a photograph in 1,000."""
    folder = locate(parse(arguments).prior.path)
    drawings = sorted((folder / "edits").glob("*_source.png"))[:20]
    with tempfile.TemporaryDirectory() as place:
        jobs = [("drawings", drawings, 64, 500, 300)]
        try:
            from skimage import data
        except ImportError:
            print("no photograph: pip install scikit-image")
        else:
            Image.fromarray(data.astronaut()).save(f"{place}/astronaut.png")
            jobs.append(("photograph", [f"{place}/astronaut.png"], 256, 5000, 1000))
        for name, files, size, count, steps in jobs:
            # Fitting asks nothing of a checkpoint but a size.
            canvas = SimpleNamespace(image_size=size, device=torch.device("cpu"), embed=lambda prompts: None)
            config = RepresentationConfig(
                init="image", init_images=tuple(map(str, files)), lr=1.0, num_points=count, fit_steps=steps
            )
            start = time.perf_counter()
            images = Gaussian2D(config, canvas, Particles(canvas, [""] * len(files), "", 0)).images().detach()
            seconds = time.perf_counter() - start
            pictures = torch.stack([load_image(file, size) for file in files])
            psnr = -10 * (images.clamp(0, 1) - pictures).square().mean((1, 2, 3)).log10()
            print(
                f"{name}: {len(files)} at {size}×{size}, {count} Gaussians, {steps} steps: mean {psnr.mean():.2f} dB, "
                f"least {psnr.min():.2f} dB, {seconds:.0f} s"
            )
