"""The tables: does the default run do what the prompt says, and what does a step cost beyond the networks it must call?

    python benchmark.py quality --rep.kind latent
    python benchmark.py speed
"""

import statistics
import sys
import time

import torch

import sds2d
from evaluation import Judge, background_colours, draw_prompts, report, with_background
from prior import Prior, checkpoint_file, locate

PROMPTS, PARTICLES, BATCH = 40, 2, 8


def quality(arguments):
    """40 prompts over all categories × 2 particles, in runs of 8 particles, judged by the checkpoint's own CLIP."""
    probe = sds2d.parse(arguments)
    folder = locate(probe.prior.path)
    captions = checkpoint_file(folder, "captions.json")
    if "names" not in captions or not (folder / "clip").is_dir():
        raise sds2d.InputError(f"--prior.path {folder}: quality needs a folder with captions.json and clip/")
    prompts = draw_prompts(captions, PROMPTS, seed=0)
    prior, judge, images, started = Prior(probe.prior), Judge(folder / "clip"), [], time.time()
    for first in range(0, PROMPTS, BATCH // PARTICLES):
        texts = [with_background(*pair) for pair in prompts[first : first + BATCH // PARTICLES]]
        out = f"{probe.out}/{first:03d}"
        config = sds2d.parse([*arguments, "--prompt", *texts, "--particles", str(PARTICLES), "--out", out,
                              "--seed", str(first * PARTICLES), "--log.every", "1000000"])  # fmt: skip
        images.append(sds2d.run(config, prior).cpu())
    wanted = [pair for pair in prompts for _ in range(PARTICLES)]
    images = torch.cat(images)
    ranks = judge.ranks(images, wanted, captions)
    for index, pair in enumerate(prompts):
        places = [rank + 1 for rank in ranks[index * PARTICLES : (index + 1) * PARTICLES]]
        print(f"{with_background(*pair):60s} places {places}")
    print(f"{probe.algo.name} {probe.rep.kind}: {report(ranks, background_colours(images, captions), wanted)}   "
          f"{(time.time() - started) / len(wanted):.1f} s a particle   {probe.out}")  # fmt: skip


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


def speed(arguments):
    """A step of each representation beside the bare calls of the networks that it can't do without."""
    print("| method | representation | step, ms | bare calls, ms | ratio |\n| --- | --- | --- | --- | --- |")
    config = sds2d.parse(arguments)
    prior = Prior(config.prior)
    for kind in sds2d.REPRESENTATIONS:
        config = sds2d.parse([*arguments, "--rep.kind", kind])
        algorithm, representation, schedule, optimizer = sds2d.build(config, prior)
        rows = len(config.prompt) * config.particles
        z_t = torch.randn(2 * rows, *prior.latent_shape, device=prior.device).to(prior.dtype)
        t, text = torch.full((2 * rows,), 500, device=prior.device), prior.embed(["a"] * 2 * rows)
        size = prior.image_size
        pixels = torch.rand(rows, 3, size, size, device=prior.device, requires_grad=True)
        gradient = torch.ones(rows, *prior.latent_shape, device=prior.device)

        def step(parts=(algorithm, representation, schedule, optimizer), schedule=schedule):
            gradient, _ = sds2d.distill(*parts, sds2d.to_device(schedule.timestep(0), prior.device))
            gradient.flatten(1).norm(dim=1)  # what recording asks of every step

        def bare(kind=kind, z_t=z_t, t=t, text=text, pixels=pixels, gradient=gradient):
            with torch.no_grad():
                prior.unet(z_t, t, text)
            if kind == "pixel":
                prior.vae.encode(pixels.to(prior.dtype)).latent_dist.mean.backward(gradient.to(prior.dtype))
                pixels.grad = None

        ours, floor = paired(step, bare)
        print(f"| {config.algo.name} | {kind} | {1e3 * ours:.1f} | {1e3 * floor:.1f} | {ours / floor:.3f} |")


if __name__ == "__main__":
    commands = {"quality": quality, "speed": speed}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: python benchmark.py {{{'|'.join(commands)}}} [flags of sds2d.py]")
    try:
        commands[sys.argv[1]](sys.argv[2:])
    except sds2d.InputError as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        sys.exit(2)
