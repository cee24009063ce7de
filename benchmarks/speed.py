"""`python -m benchmarks speed`: what a step costs beyond the network calls that it needs.

Each row is measured in its own process, which does nothing else.
"""

import concurrent.futures
import contextlib
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from pydantic import PositiveInt

import sds2d
from algorithms import ALGORITHMS
from algorithms.method import Method
from benchmarks.random_prior import save_random
from benchmarks.tables import Options, report
from config import parse, read_options
from priors.checkpoint import Checkpoint
from priors.prior import Prior
from representations import REPRESENTATIONS
from representations.rasterizer import rasterize


@dataclass
class SpeedOptions(Options):
    rows: tuple[str, ...] = (
        *(f"{name} latent" for name in ALGORITHMS),
        *(f"sds {kind}" for kind in REPRESENTATIONS if kind != "latent"),
    )
    """Methods, or "METHOD KIND"."""
    rounds: PositiveInt = 30
    """Number of timed steps; the table has the median."""
    random: Literal["sd15", "sdxl", "sd3", "flux"] | None = None
    """A prior with this full architecture and random weights, as time does not depend on their values. None:
    --prior.path, or sd15 on CUDA if that is not given."""


def paired(ours: Callable, bare: Callable, rounds: int, warmup: int = 3) -> tuple[float, float]:
    """Median seconds of both, called alternately so that a drift in the machine's speed affects both alike."""
    seconds = {ours: [], bare: []}
    for _ in range(rounds + warmup):
        for call in (ours, bare):
            start = time.perf_counter()
            call()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            seconds[call].append(time.perf_counter() - start)
    return statistics.median(seconds[ours][warmup:]), statistics.median(seconds[bare][warmup:])


def network_calls(prior: Prior, algorithm: Method, step: Callable) -> list[tuple[tuple, bool, bool]]:
    """One step's calls of the denoiser: [(its inputs, is it VSD's φ, is a gradient needed)]."""
    calls, denoise = [], prior.denoise

    def noting(x, time, text):
        phi = bool(getattr(algorithm, "phi", None)) and algorithm.phi.is_active
        calls.append(((x.detach(), time, text), phi, torch.is_grad_enabled()))
        return denoise(x, time, text)

    prior.denoise = noting
    step()
    del prior.denoise
    return calls


def bare_calls(parts: sds2d.Parts, calls: list[tuple[tuple, bool, bool]]) -> Callable:
    """→ a function that only makes the same calls of the networks and of the rasterizer, or of the field's network."""
    algorithm, representation, rows = parts.algorithm, parts.representation, len(parts.particles)
    prior = algorithm.prior
    pixels = torch.rand(rows, 3, *prior.image_size, device=prior.device, requires_grad=True)
    gaussians, kind = [], representation.config.kind
    if kind in ("gaussian2d", "bezier"):
        gaussians = [value.detach().requires_grad_() for value in representation.gaussians()]
        gaussians += [representation.background] if kind == "gaussian2d" else []

    def bare():
        for inputs, phi, learns in calls:
            with algorithm.phi.active() if phi else contextlib.nullcontext(), torch.set_grad_enabled(learns):
                output = prior.denoise(*inputs)
                if learns:
                    output.backward(output.detach())
                    algorithm.optimizer.zero_grad(set_to_none=True)
        if kind != "latent":
            latents = prior.encode(pixels)
            latents.backward(torch.ones_like(latents))
            pixels.grad = None
        if gaussians:
            images = rasterize(*gaussians, prior.image_size)
            images.backward(torch.ones_like(images))
        elif kind == "field":
            images = representation.images()
            images.backward(torch.ones_like(images))

    return bare


def measure(flags: list[str], rounds: int) -> str:
    """One method and representation, four particles → the cells of its line."""
    config = parse(["--particles", "4", *flags])
    prior = Checkpoint(config.prior)
    parts = sds2d.build(config, prior)
    algorithm = parts.algorithm

    def step():
        gradient = sds2d.distill(parts, config.steps // 2).gradient
        gradient.flatten(1).norm(dim=1)  # recorded at every step

    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    calls = network_calls(prior, algorithm, step)
    ours, bare = paired(step, bare_calls(parts, calls), rounds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if prior.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    rows = len(parts.particles)
    counts = [len(inputs[0]) for inputs, *_ in calls]
    shown = " + ".join(f"{count // rows}B" if count % rows == 0 else str(count) for count in counts)
    return f"{shown} | {1e3 * ours:.1f} | {1e3 * bare:.1f} | {ours / bare:.3f} | {1e3 * first:.0f} | {memory:.0f}"


def alone(flags: list[str], rounds: int) -> str:
    """measure() in its own process."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, flags, rounds).result()


def main(arguments: list[str]) -> None:
    options, given = read_options(SpeedOptions, arguments)
    titles = "method | representation | calls | step, ms | bare calls, ms | ratio | first step, ms | peak memory, MB"
    lines = [f"| {titles} |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        own = any(word.startswith("--prior.path") for word in given)
        if name := options.random or ("sd15" if torch.cuda.is_available() and not own else None):
            given = [*given, "--prior.path", str(save_random(Path(folder) / name, name))]
        source = f"{folder}/source.png"
        Image.effect_noise((64, 64), 50).save(source)
        for row in options.rows:
            name, kind = row.split() if " " in row else (row, "latent")
            flags = ["--algo.name", name, "--rep.kind", kind]
            if ALGORITHMS[name].edits:
                flags += ["--source-image", source, "--source-prompt", "a"]
            if not ALGORITHMS[name].is_sampler:  # t = T/2 in the middle: as many calls each time
                flags += ["--steps", "50", "--schedule.timestep", "linear"]
            lines.append(f"| {name} | {kind} | {alone([*flags, *given], options.rounds)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads of a CPU"
    lines.append(f"\n{where}, four particles, medians of {options.rounds} steps and their bare calls; a process a row.")
    report("speed", "\n".join(lines), options)
