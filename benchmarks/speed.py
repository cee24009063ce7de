"""`python -m benchmarks speed`: what a step costs beyond the network calls that it needs.

Each row is measured in its own process, which does nothing else.
"""

import concurrent.futures
import contextlib
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import PositiveInt

import sds2d
from algorithms import ALGORITHMS
from algorithms.method import Method
from benchmarks.tables import Options, full_rows, report
from config import parse, read_options
from priors.checkpoint import Checkpoint
from priors.files import EMBEDDED
from priors.prior import Prior
from representations import REPRESENTATIONS
from representations.representation import Representation

TITLES = "method | representation | calls | step, ms | bare calls, ms | ratio | first step, ms | peak memory, MB"


@dataclass
class SpeedOptions(Options):
    rows: tuple[str, ...] = (*ALGORITHMS, *(f"sds {kind}" for kind in REPRESENTATIONS if kind != "latent"))
    """Methods, or "METHOD KIND"."""
    rounds: PositiveInt = 30
    """Number of timed steps; the table has the median."""


def main(arguments: list[str]) -> None:
    options, given = read_options(SpeedOptions, arguments)
    lines = [f"| {TITLES} |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in full_rows(options.rows, ALGORITHMS):
        method, kind = row.split()
        flags = ["--algo.name", method, "--rep.kind", kind]
        if ALGORITHMS[method].edits:
            flags += ["--source-image", str(EMBEDDED / "edits" / "15_source.png"), "--source-prompt", "a red apple"]
        if not ALGORITHMS[method].is_sampler:  # t = T/2 in the middle: as many calls each time
            flags += ["--steps", "50", "--schedule.timestep", "linear"]
        lines.append(f"| {method} | {kind} | {' | '.join(alone([*flags, *given], options.rounds))} |")
        print(lines[-1], file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads of a CPU"
    lines.append(f"\n{where}, four particles, medians of {options.rounds} steps and their bare calls; a process a row.")
    report("speed", "\n".join(lines), options)


def alone(flags: list[str], rounds: int) -> list[str]:
    """measure() in its own process."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, flags, rounds).result()


def measure(flags: list[str], rounds: int) -> list[str]:
    """One method and representation, four particles → what its row has from "calls" on."""
    config = parse(["--particles", "4", *flags])
    prior = Checkpoint(config.prior)
    parts = sds2d.build(config, prior)

    def step():
        sds2d.distill(parts, config.steps // 2).gradient.flatten(1).norm(dim=1)  # recorded at every step

    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    calls = network_calls(prior, parts.algorithm, step)
    ours, bare = paired(step, bare_calls(prior, parts.algorithm, parts.representation, calls), rounds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if prior.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    particles, counts = len(parts.particles), [len(inputs[0]) for inputs, *_ in calls]
    shown = " + ".join(str(count) if count % particles else f"{count // particles}B" for count in counts)
    times = [f"{1e3 * ours:.1f}", f"{1e3 * bare:.1f}", f"{ours / bare:.3f}", f"{1e3 * first:.0f}"]
    return [shown, *times, f"{memory:.0f}"]


def network_calls(prior: Prior, algorithm: Method, step: Callable) -> list[tuple[tuple, bool, bool]]:
    """The calls of the denoiser in one step: [(its inputs, is VSD's φ active, is φ trained on the output)]."""
    calls, denoise = [], prior.denoise

    def recorded(x, time, y):
        phi = getattr(algorithm, "phi", None)
        calls.append(((x.detach(), time, y), bool(phi) and phi.is_active, torch.is_grad_enabled()))
        return denoise(x, time, y)

    prior.denoise = recorded
    step()
    del prior.denoise
    return calls


def bare_calls(prior: Prior, algorithm: Method, representation: Representation, calls: list) -> Callable:
    """→ a function that only makes the same calls of the networks, and draws and encodes the images."""

    def bare():
        for inputs, phi, trains in calls:
            with algorithm.phi.active() if phi else contextlib.nullcontext(), torch.set_grad_enabled(trains):
                output = prior.denoise(*inputs)
                if trains:
                    output.backward(output.detach())
                    algorithm.optimizer.zero_grad(set_to_none=True)
        if representation.config.kind != "latent":
            latents = prior.encode(representation.images())
            latents.backward(torch.ones_like(latents))

    return bare


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
