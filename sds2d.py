#!/usr/bin/env python
"""Score distillation in two dimensions: pick a method, a representation and a schedule, and look at what happens.

    python sds2d.py
    python sds2d.py --prompt "a red heart" "a blue heart" --algo.name vsd --rep.kind pixel
    python sds2d.py --algo.name dds --prompt "a green apple" \\
        --source-image priors/emoji64/edits/15_source.png --source-prompt "a red apple"
    python sds2d.py --prior.path stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a photo of a fox"
"""

from recording import startup

if __name__ == "__main__":
    startup.before_imports()  # The imports below take seconds.

import contextlib
import copy
import json
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from algorithms import ALGORITHMS
from algorithms.method import Method
from algorithms.particles import Particles
from config import Config, complete, defaults, dump, parse, parse_resume, settings_in
from errors import InputError, explain
from priors.checkpoint import Checkpoint
from priors.device import per_row
from priors.prior import Prior
from recording.describe import answer, describe, prior_warnings
from recording.environment import changes, earlier_environment, environment
from recording.folder import lock_folder, make_folder, write_error, write_text
from recording.interruption import Interrupted, Interruption
from recording.probe import probe_timesteps
from recording.recorder import Recorder
from recording.scores import evaluator
from representations import REPRESENTATIONS
from representations.representation import Representation, make_optimizer, set_learning_rate
from representations.start import load_images
from schedules.schedule import Schedule


class Parts(NamedTuple):
    """What a run is made of."""

    algorithm: Method
    representation: Representation
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    particles: Particles


class Step(NamedTuple):
    """What one step computed, for B particles: with --batch those of the step, otherwise all."""

    z: torch.Tensor
    """Latents (B, C, h, w) before the step."""
    t: torch.Tensor
    """Timesteps, long (B,), on the CPU."""
    weight: torch.Tensor
    """w, float64 (B,), on the CPU."""
    gradient: torch.Tensor
    """g (B, C, h, w), before the weight."""
    particles: Particles


def build(config: Config, prior: Prior) -> Parts:
    """Builds the parts of a step from a complete Config."""
    rows = len(config.prompt) * config.particles

    def each(values):
        """One value for all rows, one per prompt, or one per row → one per row."""
        return [value for value in values for _ in range(rows // len(values))]

    particles = Particles(
        prior,
        each(config.prompt),
        each(config.negative_prompt),
        list(config.seeds) * len(config.prompt) or config.seed,
        each(config.source_prompt),
        load_images(config.source_image, prior, rows) if config.source_image else None,
        each(config.source_negative_prompt),
        batch_size=config.batch,
        per_prompt=config.particles,
        source_mask=load_images(config.source_mask, prior, rows)[:, :1] > 0.5 if config.source_mask else None,
    )
    algorithm = ALGORITHMS[config.algo.name](prior, particles, config.algo, config.steps)
    representation = REPRESENTATIONS[config.rep.kind](config.rep, prior, particles)
    schedule = Schedule(config.schedule, prior, config.steps, algorithm.min_t, algorithm.timesteps)
    optimizer = make_optimizer(config.rep, representation.parameters())
    return Parts(algorithm, representation, schedule, optimizer, particles)


def distill(parts: Parts, step: int) -> Step:
    """One step. With several updates per step, the result is that of the last."""
    algorithm, representation, schedule, optimizer, particles = parts
    progress = step / schedule.steps
    set_learning_rate(optimizer, representation.config, step, schedule.steps)
    particles = particles.minibatch()  # with --batch, some of them
    t = schedule.timestep(step, particles)  # (B,)
    weight = schedule.weight(t, step)  # (B,)
    random_state = particles.state_dict()
    for _ in range(algorithm.updates_per_step):
        particles.load_state_dict(random_state)  # the same noise for every update
        z = representation.latents(particles.rows)  # (B, C, h, w), differentiable
        gradient = algorithm.gradient(z.detach(), t, particles, progress)  # (B, C, h, w), no graph through the prior
        gradient = algorithm.repelled(gradient, t, particles)  # unchanged without --algo.repulsion
        optimizer.zero_grad(set_to_none=True)
        z.backward(per_row(weight, gradient) * gradient)  # on to the representation's parameters
        algorithm.update(z.detach(), t, particles, progress)  # VSD trains its LoRA; most methods do nothing
        optimizer.step()
        representation.project()
    return Step(z.detach(), t, weight, gradient, particles)


class Result(NamedTuple):
    """What a run leaves."""

    images: torch.Tensor
    """The final pictures (B, 3, H, W)."""
    folder: Path


def run(config: Config, prior: Prior | None = None, watch: Callable | None = None, resume: bool = False) -> Result:
    """One run, in the folder config.out. Settings that are not set get their defaults; the Config stays as it is.

    prior: an already loaded one; None loads config.prior.
    watch: called as watch(step, images) with the images before that step, at every recording.
    resume: continue the run in config.out from its last checkpoint.

    Raises InputError for invalid settings, FloatingPointError for NaN or infinite values, and Interrupted after
    Ctrl-C or SIGTERM, once everything is written.
    """
    config = copy.deepcopy(config) if resume else complete(config)
    prior = prior or Checkpoint(config.prior)
    config.prior.dtype, config.prior.device = str(prior.dtype).removeprefix("torch."), str(prior.device)
    parts = build(config, prior)
    scores = evaluator(config.eval, config.prior.path, parts.particles)
    timesteps = probe_timesteps(config.log.timesteps, parts.algorithm)
    now, warnings = environment(prior, config), prior_warnings(parts.algorithm, parts.particles)
    for line in [*warnings, *changes(earlier_environment(config, resume), now, resume)]:
        print(f"warning: {line}", file=sys.stderr)
    files = {"config.yaml": dump(config), "environment.json": json.dumps(now | {"warnings": warnings}, indent=1)}
    if not resume:
        config.out = str(make_folder(Path(config.out or default_out(config)), files, unique=not config.out))
    folder = Path(config.out)
    if not config.quiet:
        print(describe(config, parts.schedule, defaults(config)[1]), file=sys.stderr)
    startup.before_first_step()
    try:
        with lock_folder(folder), Interruption() as interruption:
            recorder = Recorder(config, parts, timesteps, scores, resume)
            if resume:  # which may have more steps, or another device
                for name, text in files.items():
                    write_text(folder / name, text)
            images = loop(config, parts, recorder, interruption, watch)
            if interruption.signal:
                raise Interrupted(interruption.signal)
    except (Exception, KeyboardInterrupt) as error:
        would_recur = isinstance(error, InputError | FloatingPointError)
        if not would_recur and (folder / "config.yaml").is_file():
            error.add_note(f"{shlex.join(['python', 'sds2d.py', '--resume', config.out])} continues")
        raise
    return Result(images, folder)


def loop(
    config: Config, parts: Parts, recorder: Recorder, interruption: Interruption, watch: Callable | None
) -> torch.Tensor:
    """The steps of a run, from recorder.first to the last or to an interruption → the final images (B, 3, H, W)."""
    step = recorder.first
    bar = tqdm(initial=step, total=config.steps, desc=config.algo.name, unit="step", disable=config.quiet or None)
    plain = bar.disable and not config.quiet  # Not a terminal: print one line per recording instead.
    with bar:
        try:
            while step < config.steps and not interruption.signal:
                images = recorder.before_step(step)
                if images is not None and plain:
                    print(recorder.progress(step), file=sys.stderr, flush=True)
                if images is not None and watch:
                    watch(step, images)
                start = time.perf_counter()
                result = distill(parts, step)
                recorder.after_step(step, result, time.perf_counter() - start)
                step += 1
                bar.set_postfix(t=result.t[0].item(), refresh=False)
                bar.update()
            return recorder.finish(step)
        except Exception as error:
            with contextlib.suppress(OSError):
                write_error(Path(config.out), error)
            if isinstance(error, FloatingPointError):
                recorder.summarize()  # Earlier recordings may show the cause.
            raise


def default_out(config: Config) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", config.prompt[0].lower()).strip("-")[:40] or "prompt"
    return f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-{config.algo.name}-{config.rep.kind}-{slug}"


def main():
    arguments = sys.argv[1:]
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # so that a terminal without UTF-8 can show any path
        if text := answer(arguments, __doc__):
            print(text)
            return
        resume = "resume" in settings_in(arguments)
        config = parse_resume(arguments) if resume else parse(arguments, __doc__)
        result = run(config, resume=resume)
        print(result.folder / "final.png")
    except (Exception, KeyboardInterrupt) as error:
        code, line = explain(error)
        if line is None or "--debug" in arguments:
            traceback.print_exc()
        if line is not None:
            line = "; ".join([" ".join(line.split()), *getattr(error, "__notes__", [])])
            print(f"sds2d.py: {line}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
