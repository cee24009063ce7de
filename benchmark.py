"""The tables: does the default run do what the prompt says, and what does a step cost beyond the networks it must call?

    python benchmark.py quality --rep.kind latent
    python benchmark.py edits dds
    python benchmark.py speed
    python benchmark.py rasterizer
    python benchmark.py fitting
    python benchmark.py long
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.utils.checkpoint
from PIL import Image

import sds2d
from algorithms import ALGORITHMS
from algorithms.particles import Particles
from evaluation import Judge, background_colours, draw_prompts, report, saturation, with_background
from prior import InputError, Prior, checkpoint_file, locate
from recording.pictures import grid
from representations import RepresentationConfig
from representations.start import load_image
from settings import parse
from settings.config import Config
from settings.flags import read

PROMPTS, PARTICLES, BATCH = 40, 2, 8
UNWATCHED = ["--log.every", "1000000", "--log.timesteps", "--eval.clip", "none"]


def quality(arguments):
    """40 prompts over all categories × 2 particles, in runs of 8 particles, judged by the checkpoint's own CLIP."""
    probe = parse(arguments)
    folder = locate(probe.prior.path)
    captions = checkpoint_file(folder, "captions.json")
    if "names" not in captions or not (folder / "clip").is_dir():
        raise InputError(f"--prior.path {folder}: quality needs a folder with captions.json and clip/")
    prompts = draw_prompts(captions, PROMPTS, seed=0)
    prior, judge, images, started = Prior(probe.prior), Judge(folder / "clip"), [], time.time()
    for first in range(0, PROMPTS, BATCH // PARTICLES):
        texts = [with_background(*pair) for pair in prompts[first : first + BATCH // PARTICLES]]
        out = f"{probe.out}/{first:03d}"
        config = parse([*arguments, "--prompt", *texts, "--particles", str(PARTICLES), "--out", out,
                              "--seed", str(first * PARTICLES), *UNWATCHED])  # fmt: skip
        images.append(sds2d.run(config, prior).cpu())
    wanted = [pair for pair in prompts for _ in range(PARTICLES)]
    images = torch.cat(images)
    ranks = judge.ranks(images, wanted, captions)
    for index, pair in enumerate(prompts):
        places = [rank + 1 for rank in ranks[index * PARTICLES : (index + 1) * PARTICLES]]
        print(f"{with_background(*pair):60s} places {places}")
    seconds = (time.time() - started) / len(wanted)
    print(f"{probe.algo.name} {probe.rep.kind}: {report(ranks, background_colours(images, captions), wanted)}   "
          f"diversity {judge.diversity(images, PARTICLES):.3f}   saturation {saturation(images):.3f}   "
          f"{seconds:.1f} s a particle   {probe.out}")  # fmt: skip


def edits(arguments):
    """The checkpoint's edits with a known answer: is the target there, and does the rest stay as it was?

    python benchmark.py edits NAME [flags]. A method that edits gets source and source prompt; any other starts from the source.
    "Outside" are the pixels in which the drawn source and the drawn target agree.
    """
    name, *flags = arguments or ["dds"]
    if name not in ALGORITHMS:
        raise InputError(f"edits {name}: a method is needed, one of {', '.join(ALGORITHMS)}")
    probe = read(flags, Config)
    folder = locate(probe.prior.path)
    if not (Path(folder) / "edits").is_dir():
        raise InputError(f"--prior.path {folder}: edits needs a folder with edits/")
    pairs = [SimpleNamespace(**pair) for pair in json.loads((folder / "edits" / "edits.json").read_text())]
    captions, prior, judge = checkpoint_file(folder, "captions.json"), Prior(probe.prior), Judge(folder / "clip")
    root, images, started = f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-edits-{name}", [], time.time()
    for first in range(0, len(pairs), BATCH):
        part = pairs[first : first + BATCH]
        files = [str(folder / "edits" / pair.source) for pair in part]
        source = ["--source-image", *files, "--source-prompt", *(pair.source_prompt for pair in part)]
        start = source if ALGORITHMS[name].edits else ["--rep.init", "image", "--rep.init-images", *files]
        config = parse([*flags, "--algo.name", name, *start, "--prompt", *(pair.prompt for pair in part), "--particles", "1",
                              "--out", f"{root}/{first:03d}", "--seed", str(first), *UNWATCHED])  # fmt: skip
        images.append(sds2d.run(config, prior).cpu().clamp(0, 1))
    images = torch.cat(images)
    drawn = {kind: torch.stack([load_image(folder / "edits" / getattr(pair, kind), prior.image_size) for pair in pairs])
             for kind in ("source", "target")}  # fmt: skip
    outside = ((drawn["source"] - drawn["target"]).abs().amax(1, keepdim=True) < 0.02).float()
    errors = ((images - drawn["source"]).square() * outside).sum((1, 2, 3)) / (3 * outside.sum((1, 2, 3)))
    wanted = [(pair.phrase, pair.background) for pair in pairs]
    ranks, colours = judge.ranks(images, wanted, captions), background_colours(images, captions)
    for pair, rank, colour, error in zip(pairs, ranks, colours, errors.tolist(), strict=True):
        print(f"{pair.source_prompt:45s} → {pair.prompt:45s} place {rank + 1:3d}   {colour:8s} outside {error:.4f}")
    grid(torch.stack([drawn["source"], images, drawn["target"]], 1).flatten(0, 1), [""] * 3, 30, 64).save(f"{root}/edits.png")
    print(f"edits {name}: {report(ranks, colours, wanted)}   mean squared error outside {errors.mean():.4f}   "
          f"{(time.time() - started) / len(pairs):.1f} s a particle   {root}/edits.png")  # fmt: skip


def paired(ours, bare, rounds=30, warmup=3):
    """Median seconds of both, called in turn so that a machine whose speed drifts slows both alike."""
    ours_seconds, bare_seconds = [], []
    for index in range(rounds + warmup):
        for call, seconds in ((ours, ours_seconds), (bare, bare_seconds)):
            start = time.perf_counter()
            call()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if index >= warmup:
                seconds.append(time.perf_counter() - start)
    return statistics.median(ours_seconds), statistics.median(bare_seconds)


def network_calls(prior, algorithm, step):
    """What one step asks of the UNet: [(rows, is it φ of VSD, is a gradient needed)]."""
    calls, network = [], prior.network

    def noting(z_t, t, text):
        phi = any(not layer.disable_adapters for layer in getattr(algorithm, "layers", ()))
        calls.append((len(z_t), phi, torch.is_grad_enabled()))
        return network(z_t, t, text)

    prior.network = noting
    step()
    del prior.network
    return calls


def speed(arguments):
    """A step of every method, and of every representation, beside the bare calls of the networks that it can't do without."""
    print("| method | representation | calls | step, ms | bare calls, ms | ratio |\n| --- | --- | --- | --- | --- | --- |")
    prior = Prior(parse(arguments).prior)
    size = prior.image_size
    with tempfile.TemporaryDirectory() as folder:
        source = f"{folder}/source.png"
        Image.effect_noise((size, size), 50).save(source)
        for name, kind in [*((name, "latent") for name in ALGORITHMS), ("sds", "pixel")]:
            flags = ["--algo.name", name, "--rep.kind", kind, "--particles", "4", "--steps", "50"]
            if ALGORITHMS[name].edits:
                flags += ["--source-image", source, "--source-prompt", "a"]
            if name != "ddim":
                flags += ["--schedule.timestep", "linear"]  # the middle of the run is t = T/2, and takes as many calls each time
            config = parse([*flags, *arguments])
            parts = sds2d.build(config, prior)
            rows = len(config.prompt) * config.particles
            pixels = torch.rand(rows, 3, size, size, device=prior.device, requires_grad=True)
            gradient = torch.ones(rows, *prior.latent_shape, device=prior.device, dtype=prior.dtype)

            def step(parts=parts):
                *_, gradient = sds2d.distill(*parts, step=25)
                gradient.flatten(1).norm(dim=1)  # what recording asks of every step

            def inputs(rows):
                z_t = torch.randn(rows, *prior.latent_shape, device=prior.device).to(prior.dtype)
                return z_t, torch.full((rows,), 500, device=prior.device), prior.embed(["a"] * rows)

            calls = [(*call, inputs(call[0])) for call in network_calls(prior, parts[0], step)]

            def bare(algorithm=parts[0], kind=kind, calls=calls, pixels=pixels, gradient=gradient):
                for _, phi, learns, given in calls:
                    with algorithm.phi() if phi else contextlib.nullcontext(), torch.set_grad_enabled(learns):
                        output = prior.unet(*given).sample
                        if learns:
                            output.backward(output.detach())
                            algorithm.optimizer.zero_grad(set_to_none=True)
                if kind == "pixel":
                    prior.vae.encode(pixels.to(prior.dtype)).latent_dist.mean.backward(gradient)
                    pixels.grad = None

            ours, floor = paired(step, bare)
            shown = " + ".join(f"{n // rows}B" if n % rows == 0 else str(n) for n, *_ in calls)
            print(f"| {name} | {kind} | {shown} | {1e3 * ours:.1f} | {1e3 * floor:.1f} | {ours / floor:.3f} |", flush=True)


def dense_rendering(centers, scales, angles, colors, opacities, background, size, chunk=16):
    """The picture without tiles, kernels or early ends: every Gaussian at every pixel, `chunk` at a time, as memory asks for;
    backward computes each chunk again."""
    from representations.gaussian_kernels import LOW_PASS

    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")

    def layer(light, centers, scales, angles, colors, opacities):
        dx, dy = x - centers[..., :1, None], y - centers[..., 1:, None]  # (B, n, H, W)
        cos, sin = angles.cos()[..., None, None], angles.sin()[..., None, None]
        first, second = (scales**2 + LOW_PASS)[..., None, None].unbind(2)
        sigma = 0.5 * ((cos * dx + sin * dy) ** 2 / first + (cos * dy - sin * dx) ** 2 / second)
        alpha = (opacities[..., None, None] * torch.exp(-sigma)).clamp(max=0.999)
        alpha = torch.where(alpha < 1 / 255, 0, alpha)
        lights = light[:, None] * torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1).cumprod(1)  # (B, n + 1, H, W)
        return torch.einsum("bnhw,bnc->bchw", alpha * lights[:, :-1], colors), lights[:, -1]

    image, light = torch.zeros(len(centers), 3, *size), torch.ones(len(centers), *size)
    for parts in zip(*(value.split(chunk, 1) for value in (centers, scales, angles, colors, opacities)), strict=True):
        seen, light = torch.utils.checkpoint.checkpoint(layer, light, *parts, use_reentrant=False)
        image = image + seen
    return image + light[:, None] * background.view(1, 3, 1, 1)


def gaussian_scene(batch, count, side):
    """Random Gaussians, about one spacing wide: each pixel lies within a standard deviation of some three."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(shape, generator=generator)

    scales = side * count**-0.5 * (0.5 + uniform(batch, count, 2))
    scene = (uniform(batch, count, 2) * side, scales, uniform(batch, count) * 3, uniform(batch, count, 3), uniform(batch, count))
    return [value.requires_grad_(True) for value in scene]


def rendering_seconds(renderer, scene, side, rounds):
    """Median of forward and backward."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        image = renderer(*scene, torch.ones(3), (side, side))
        image.backward(torch.ones_like(image))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def rasterizer(arguments):
    """Forward and backward of the CPU's rasterizer, how far the process's memory has risen, and a dense rendering beside them."""
    import resource

    from representations.rasterizer import rasterize

    if arguments:
        raise InputError(f"rasterizer takes no flags: {' '.join(arguments)}")

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    # After the first, in turn: twice the particles, twice the Gaussians on the same area, four times the pixels of the same scene.
    sizes = [(4, 1000, 64), (8, 1000, 64), (4, 2000, 64), (4, 1000, 128), (1, 10_000, 512), (1, 50_000, 512)]
    rendering_seconds(rasterize, gaussian_scene(1, 10, 16), 16, 1)  # compiles
    print("| particles | Gaussians | canvas | ms | memory so far, MB |\n| --- | --- | --- | --- | --- |")
    before, ours = peak(), {}
    for size in sizes:
        ours[size] = rendering_seconds(rasterize, gaussian_scene(*size), size[-1], 30 if size[-1] < 512 else 7)
        print(f"| {size[0]} | {size[1]} | {size[2]}×{size[2]} | {1e3 * ours[size]:.1f} | {peak() - before:.0f} |", flush=True)
    # Its time grows exactly with the number of Gaussians: the large canvas takes a tenth of them, ten times.
    for size, part in (((4, 1000, 64), 1), ((1, 10_000, 512), 10)):
        particles, count, side = size
        scene = [value[:, : count // part].detach().requires_grad_(True) for value in gaussian_scene(*size)]
        dense = part * rendering_seconds(dense_rendering, scene, side, 3 if part == 1 else 1)
        print(f"dense rendering of {particles} × {count} at {side}×{side}: {1e3 * dense:.0f} ms, {dense / ours[size]:.0f} times ours")


def fitting(arguments):
    """How well Gaussians fit pictures: 500 on the drawings of the checkpoint's edits in 300 steps, 5,000 on a photograph in 1,000."""
    from representations.gaussian2d import Gaussian2D

    folder = locate(read(arguments, Config).prior.path)
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
            config = RepresentationConfig(init="image", init_images=tuple(map(str, files)), lr=1.0, num_points=count,
                                                fit_steps=steps)  # fmt: skip
            start = time.perf_counter()
            images = Gaussian2D(config, canvas, Particles(canvas, [""] * len(files), "", 0)).images().detach()
            seconds = time.perf_counter() - start
            pictures = torch.stack([load_image(file, size) for file in files])
            psnr = -10 * (images.clamp(0, 1) - pictures).square().mean((1, 2, 3)).log10()
            print(f"{name}: {len(files)} at {size}×{size}, {count} Gaussians, {steps} steps: mean {psnr.mean():.2f} dB, "
                  f"least {psnr.min():.2f} dB, {seconds:.0f} s")  # fmt: skip


def long(arguments):
    """Memory and milliseconds a step along a run of 20,000 steps, looked at 200 times."""
    with tempfile.TemporaryDirectory() as out:
        given = ["--steps", "20000", "--particles", "1", "--log.every", "100", "--log.tile", "64", *arguments, "--out", f"{out}/run"]
        config, last = parse(given), [0, time.perf_counter()]
        print("| step | memory, MB | ms a step |\n| --- | --- | --- |")

        def watch(step, images):
            if step and step % (config.steps // 10) < config.log.every:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                now = time.perf_counter()
                print(f"| {step} | {pages * 4096 / 2**20:.1f} | {1e3 * (now - last[1]) / (step - last[0]):.2f} |", flush=True)
                last[:] = step, now

        sds2d.run(config, watch=watch)


if __name__ == "__main__":
    commands = {"quality": quality, "edits": edits, "speed": speed, "rasterizer": rasterizer, "fitting": fitting, "long": long}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: python benchmark.py {{{'|'.join(commands)}}} [flags of sds2d.py]")
    try:
        commands[sys.argv[1]](sys.argv[2:])
    except (InputError, FloatingPointError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
