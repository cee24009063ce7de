"""`python benchmark.py speed`: what a step costs beyond the networks that it must call."""

import contextlib
import statistics
import tempfile
import time

import torch
from PIL import Image

import sds2d
from algorithms import ALGORITHMS
from prior import Prior
from settings import parse


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


def main(arguments):
    """A step of every method, and of every representation, beside the bare calls of the networks that it can't do without."""
    print("| method | representation | calls | step, ms | bare calls, ms | ratio |\n| --- | --- | --- | --- | --- | --- |")
    prior = Prior(parse(arguments).prior)
    size = prior.image_size
    with tempfile.TemporaryDirectory() as folder:
        source = f"{folder}/source.png"
        Image.effect_noise((size, size), 50).save(source)
        for name, kind in [*((name, "latent") for name in ALGORITHMS), ("sds", "pixel")]:
            flags = ["--algo.name", name, "--rep.kind", kind, "--particles", "4"]
            if ALGORITHMS[name].edits:
                flags += ["--source-image", source, "--source-prompt", "a"]
            if not ALGORITHMS[name].samples():
                flags += ["--steps", "50", "--schedule.timestep", "linear"]  # the middle of the run is t = T/2, and takes as many calls each time
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
