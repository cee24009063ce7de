"""`python benchmark.py speed`: what a step costs beyond the networks that it must call, and what the networks
themselves cost.

Each row is measured in a process of its own, which does nothing else. Where there is CUDA the prior is one of
Stable Diffusion 1.5's architecture with random weights, as time does not depend on their values; elsewhere it is
--prior.path.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

import sds2d
from algorithms import ALGORITHMS
from benchmarks.options import read_options
from benchmarks.stable_diffusion import save_random
from benchmarks.tables import write_docs, write_markdown
from config import parse
from priors.prior import Prior
from representations import REPRESENTATIONS


@dataclass
class SpeedOptions:
    rounds: int = 30
    """Steps that are timed; the median counts."""
    variants: bool = True
    """Also what precision, memory format and compilation do to a step of SDS."""
    out: str = "outputs/benchmark"
    """Folder of speed.md."""
    write_docs: bool = False
    """Write the tables into docs/BENCHMARKS.md, between their marks."""


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
        phi = hasattr(algorithm, "phi") and not algorithm.phi.layers[0].disable_adapters
        calls.append((len(z_t), phi, torch.is_grad_enabled()))
        return network(z_t, t, text)

    prior.network = noting
    step()
    del prior.network
    return calls


def bare_calls(prior, algorithm, kind, calls):
    """→ a function that makes the same calls of the networks, and nothing else."""
    inputs = []
    for count, *_ in calls:
        z_t = torch.randn(count, *prior.latent_shape, device=prior.device).to(prior.dtype)
        inputs.append((z_t, torch.full((count,), 500, device=prior.device), prior.embed(["a"] * count)))
    rows = len(algorithm.particles)
    pixels = torch.rand(rows, 3, prior.image_size, prior.image_size, device=prior.device, requires_grad=True)
    gradient = torch.ones(rows, *prior.latent_shape, device=prior.device, dtype=prior.dtype)

    def bare():
        for (_, phi, learns), given in zip(calls, inputs, strict=True):
            with algorithm.phi.active() if phi else contextlib.nullcontext(), torch.set_grad_enabled(learns):
                unet = prior.unet.forward if learns else prior.unet  # as Prior.network has it
                output = unet(*given).sample
                if learns:
                    output.backward(output.detach())
                    algorithm.optimizer.zero_grad(set_to_none=True)
        if kind != "latent":
            prior.vae.encode(pixels.to(prior.dtype)).latent_dist.mean.backward(gradient)
            pixels.grad = None

    return bare


def measure(arguments, rounds=30, memory_format=None):
    """One method and representation, four particles → {calls, ours, bare: seconds, first: seconds, memory: MB}.

    memory_format: of the UNet; None leaves it as the prior has it.
    """
    config = parse(["--particles", "4", *arguments])
    prior = Prior(config.prior)
    if memory_format:
        prior.unet.to(memory_format=memory_format)
    algorithm, *rest = sds2d.build(config, prior)

    def step():
        *_, gradient = sds2d.distill(algorithm, *rest, step=config.steps // 2)
        gradient.flatten(1).norm(dim=1)  # what recording asks of every step

    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    calls = network_calls(prior, algorithm, step)
    ours, bare = paired(step, bare_calls(prior, algorithm, config.rep.kind, calls), rounds)
    cuda = prior.device.type == "cuda"
    memory = (
        torch.cuda.max_memory_allocated() / 2**20 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    rows = len(algorithm.particles)
    shown = " + ".join(f"{count // rows}B" if count % rows == 0 else str(count) for count, *_ in calls)
    return {"calls": shown, "ours": ours, "bare": bare, "first": first, "memory": memory}


def alone(*arguments):
    """measure() in a process of its own, with an empty cache of compiled code."""
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor
    with tempfile.TemporaryDirectory() as cache, pool(1, spawn, set_cache, (cache,)) as process:
        return process.submit(measure, *arguments).result()


def set_cache(folder):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder


def steps_table(given, source, rounds):
    """A line a method on latents, then SDS on the other representations."""
    yield "| method | representation | calls | step, ms | bare calls, ms | ratio | peak memory, MB |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    others = [("sds", kind) for kind in REPRESENTATIONS if kind != "latent"]
    for name, kind in [*((name, "latent") for name in ALGORITHMS), *others]:
        flags = ["--algo.name", name, "--rep.kind", kind]
        if ALGORITHMS[name].edits:
            flags += ["--source-image", source, "--source-prompt", "a"]
        if not ALGORITHMS[name].is_sampler:
            flags += [
                "--steps",
                "50",
                "--schedule.timestep",
                "linear",
            ]  # t = T/2 in the middle: as many calls each time
        measured = alone([*flags, *given], rounds)
        yield (
            f"| {name} | {kind} | {measured['calls']} | {1e3 * measured['ours']:.1f} | {1e3 * measured['bare']:.1f} | "
            f"{measured['ours'] / measured['bare']:.3f} | {measured['memory']:.0f} |"
        )


def variants_table(given, rounds):
    """A line for each precision, memory format and with or without compilation: a step of SDS on latents."""
    yield "| precision | channels last | compiled | step, ms | first step, s | pays after |"
    yield "| --- | --- | --- | --- | --- | --- |"
    config = parse(given)
    for dtype in ("float16", "bfloat16") if torch.cuda.is_available() else ("float32",):
        plain = None
        for memory_format in (torch.contiguous_format, torch.channels_last):
            for compiled in (False, True):
                flags = ["--prior.dtype", dtype, *(["--prior.compile"] if compiled else [])]
                measured = alone([*given, *flags], rounds, memory_format)
                plain = plain or measured
                saved, spent = plain["ours"] - measured["ours"], measured["first"] - plain["first"]
                steps = "never" if saved <= 0 else f"{spent / saved:,.0f} steps" if spent > saved else "at once"
                last = "yes" if memory_format is torch.channels_last else "no"
                yield (
                    f"| {dtype} | {last} | {'yes' if compiled else 'no'} | {1e3 * measured['ours']:.1f} | "
                    f"{measured['first']:.1f} | {'-' if measured is plain else steps} |"
                )
    yield f"\nA run of SDS has {config.steps} steps here."


def main(arguments):
    options, _, given = read_options(arguments, SpeedOptions)
    lines = []

    def note(line):
        print(line, flush=True)
        lines.append(line)

    with tempfile.TemporaryDirectory() as folder:
        if torch.cuda.is_available() and not any(word.startswith("--prior.path") for word in given):
            given = [*given, "--prior.path", str(save_random(Path(folder) / "stable-diffusion"))]
        source = f"{folder}/source.png"
        size = Prior(parse(given).prior).image_size
        Image.effect_noise((size, size), 50).save(source)
        for line in steps_table(given, source, options.rounds):
            note(line)
        if options.variants:
            note("")
            for line in variants_table(given, options.rounds):
                note(line)
        cpu = f"{torch.get_num_threads()} threads of a CPU"
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
        note(f"\n{where}, four particles, medians of {options.rounds} steps and their bare calls; a process a row.")
    write_markdown(Path(options.out) / "speed.md", "\n".join(lines))
    if options.write_docs:
        write_docs("speed", "\n".join(lines))
