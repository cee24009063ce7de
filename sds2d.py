#!/usr/bin/env python
"""Score distillation in two dimensions: pick a method, a representation and a schedule, and look at what happens.

    python sds2d.py
    python sds2d.py --prompt "a red heart" "a blue heart" --algo.name vsd --rep.kind pixel
    python sds2d.py --algo.name dds --prompt "a green apple" \\
        --source-image priors/emoji64/edits/15_source.png --source-prompt "a red apple"
    python sds2d.py --prior.path stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a photo of a fox"
"""

import atexit
import gc
import sys

if __name__ == "__main__":
    if "--quiet" not in sys.argv:
        print("loading PyTorch …", file=sys.stderr, flush=True)  # The imports below take seconds.
    gc.disable()  # Until the first step: the garbage collector finds nothing in what is loaded, and takes a second.
atexit.register(gc.freeze)  # Nor does it find any at exit, where it would take another second.

import contextlib
import functools
import math
import re
import shlex
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from algorithms import ALGORITHMS
from algorithms.method import Method
from algorithms.particles import Particles
from config.command_line import parse, parse_resume
from config.defaults import defaults, resolve
from config.files import dump
from config.help import short_help, version
from config.settings import Config
from config.validation import validate
from errors import InputError, explain
from priors.device import per_row
from priors.families import FAMILIES
from priors.prior import Prior
from recording.environment import changes, environment
from recording.folder import lock_folder, make_folder, write_atomic, write_error, write_text
from recording.interruption import Interrupted, Interruption
from recording.plots import plot_schedule
from recording.probe import probe_timesteps
from recording.recorder import Recorder
from recording.scores import evaluator
from representations import REPRESENTATIONS
from representations.representation import Representation, make_optimizer, set_learning_rate
from representations.start import load_images
from schedules.schedule import Schedule
from schedules.timestep import TIMESTEPS
from schedules.weight import WEIGHTS

SOURCE_ERROR = 10**-2.2  # MSE at 22 dB PSNR. The embedded prior reaches 32 dB on its own drawings, 14 to 25 on photos.


def build(config: Config, prior: Prior) -> tuple[Method, Representation, Schedule, torch.optim.Optimizer]:
    """Builds the four parts of a step from a resolved Config."""
    rows = len(config.prompt) * config.particles

    def each(values):
        """One value for all rows, one per prompt, or one per row → one per row."""
        return [value for value in values for _ in range(rows // len(values))]

    source_images = load_images(config.source_image, prior, rows) if config.source_image else None
    particles = Particles(
        prior,
        each(config.prompt),
        each(config.negative_prompt),
        list(config.seeds) * len(config.prompt) or config.seed,
        each(config.source_prompt),
        source_images,
        each(config.source_negative_prompt),
        batch_size=config.batch,
        per_prompt=config.particles,
        source_mask=load_images(config.source_mask, prior, rows)[:, :1] > 0.5 if config.source_mask else None,
    )
    algorithm = ALGORITHMS[config.algo.name](prior, particles, config.algo, config.steps)
    representation = REPRESENTATIONS[config.rep.kind](config.rep, prior, particles)
    schedule = Schedule(config.schedule, prior, particles, config.steps, algorithm.min_t, algorithm.timesteps)
    return algorithm, representation, schedule, make_optimizer(config.rep, representation.parameters())


def distill(
    algorithm: Method, representation: Representation, schedule: Schedule, optimizer: torch.optim.Optimizer, step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One step → latents z (B, C, h, w), timesteps t and weights w (B,), both on the CPU, and gradient (B, C, h, w).
    With several updates per step, these are from the last. With --batch, B is the number of particles in the step."""
    progress, particles = step / schedule.steps, algorithm.particles
    set_learning_rate(optimizer, representation.config, step, schedule.steps)
    with particles.batch():  # this step's rows; without --batch, all of them
        t = schedule.timestep(step)  # (B,)
        weight = schedule.weight(t, step)  # (B,)
        random_state = particles.state_dict() if algorithm.updates_per_step > 1 else None
        for update in range(algorithm.updates_per_step):
            if update:
                particles.load_state_dict(random_state)  # the same noise for every update
            z = representation.latents(particles.rows)  # (B, C, h, w), differentiable
            gradient = algorithm.gradient(z.detach(), t, progress)  # (B, C, h, w), no graph through the prior
            gradient = algorithm.repelled(gradient, t)  # unchanged without --algo.repulsion
            optimizer.zero_grad(set_to_none=True)
            z.backward(per_row(weight, gradient) * gradient)  # on to the representation's parameters
            algorithm.update(z.detach(), t, progress)  # VSD trains its LoRA; most methods do nothing
            optimizer.step()
            representation.project()
    return z.detach(), t, weight, gradient


def run(
    config: Config, prior: Prior | None = None, watch: Callable | None = None, resume: bool = False
) -> torch.Tensor:
    """One run, in the folder config.out → the final images (B, 3, H, W). Unset settings get their defaults.

    prior: an already loaded one; None loads config.prior.
    watch: called as watch(step, images) with the images before that step, at every recording.
    resume: continue the run in config.out from its last checkpoint.

    Raises InputError for invalid settings, FloatingPointError for NaN or infinite values, and Interrupted after
    Ctrl-C or SIGTERM, once everything is written.
    """
    if not resume:
        validate(resolve(config))
    prior = prior or Prior(config.prior)
    config.prior.dtype, config.prior.device = str(prior.dtype).removeprefix("torch."), str(prior.device)
    algorithm, _, schedule, _ = parts = build(config, prior)
    scores = evaluator(config.eval, config.prior.path, algorithm.particles)
    timesteps = probe_timesteps(config.log.timesteps, algorithm)
    then, config.environment = config.environment, environment(prior, config)
    warnings = prior_warnings(algorithm)
    for line in [*warnings, *changes(then, config.environment, resume)]:
        print(f"warning: {line}", file=sys.stderr)
    config.environment["warnings"] = warnings
    if not resume:
        out = Path(config.out or default_out(config))
        config.out = str(make_folder(out, dump(config), unique=not config.out))
    if not config.quiet:
        print(describe(config, schedule), file=sys.stderr)
    folder = Path(config.out)
    if not gc.isenabled():
        gc.freeze()  # what was loaded stays
        gc.enable()
    with lock_folder(folder), Interruption() as interruption:
        recorder = Recorder(config, parts, timesteps, scores, resume)
        step = recorder.first
        if resume:  # which may have more steps, or another device
            write_text(folder / "config.yaml", dump(config))
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
                    z, t, weight, gradient = distill(*parts, step)
                    recorder.after_step(step, z, t, weight, gradient, time.perf_counter() - start)
                    step += 1
                    bar.set_postfix(t=t[0].item(), refresh=False)
                    bar.update()
                write_atomic(folder / "schedule.png", lambda path: plot_schedule(path, schedule))
                images = recorder.finish(step)
            except Exception as error:
                with contextlib.suppress(OSError):
                    write_error(folder, error)
                    if isinstance(error, FloatingPointError):
                        recorder.summarize()  # Earlier recordings may show the cause.
                raise
        if interruption.signal:
            raise Interrupted(interruption.signal)
    return images


def default_out(config: Config) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", config.prompt[0].lower()).strip("-")[:40] or "prompt"
    return f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-{config.algo.name}-{config.rep.kind}-{slug}"


def prior_warnings(algorithm: Method) -> list[str]:
    """Warnings about prompts, source images or a guidance scale that do not suit the prior."""
    prior, particles, lines = algorithm.prior, algorithm.particles, []
    if particles.source_images is not None:
        with torch.no_grad():
            errors = (prior.decode(particles.source).clamp(0, 1) - particles.source_images).square().mean((1, 2, 3))
        for error in errors.unique().tolist():
            if error > SOURCE_ERROR:
                psnr = -10 * math.log10(error)
                lines.append(f"detail is lost: a source image has {psnr:.1f} dB PSNR after the prior's autoencoder")
    if prior.distilled and (algorithm.s or 0) > 1:
        lines.append(f"--algo.guidance-scale {algorithm.s:g}: this prior was distilled with guidance; use 1")
    if prior.scheduler_config.get("_class_name") in ("LCMScheduler", "TCDScheduler"):
        lines.append("this prior is a consistency model: it predicts clean images, not a score")
    return lines + [f"{text[:60]!r}: {line}" for text in particles.seen_prompts for line in prior.warnings(text)]


def describe(config: Config, schedule: Schedule) -> str:
    """The run in one line, and where its defaults come from."""
    _, source = defaults(config)
    plan = f"{config.steps} steps, {config.schedule.timestep} timesteps, {config.schedule.weight} weight"
    note = f"\nnote: {schedule.note}" if schedule.note else ""
    return f"{config.out}: {plan}, {config.rep.optimizer} at {config.rep.lr:g} (defaults: {source}){note}"


def overview() -> str:
    """All methods, representations, schedules and priors, one line each."""

    def first(text):
        return " ".join((text or "").split("\n\n")[0].split())

    parts = {
        "Methods, --algo.name": {name: first(sys.modules[cls.__module__].__doc__) for name, cls in ALGORITHMS.items()},
        "Representations, --rep.kind": {
            n: first(sys.modules[c.__module__].__doc__) for n, c in REPRESENTATIONS.items()
        },
        "Timesteps, --schedule.timestep": {name: first(function.__doc__) for name, function in TIMESTEPS.items()},
        "Weights, --schedule.weight": {name: first(function.__doc__) for name, function in WEIGHTS.items()},
        "Priors, --prior.path: a folder or hub id of a pipeline": {name: f.name for name, f in FAMILIES.items()},
    }
    blocks = [[title, *(f"  {name:<26} {text}" for name, text in lines.items())] for title, lines in parts.items()]
    return "\n\n".join("\n".join(block) for block in blocks)


def main():
    arguments = sys.argv[1:]
    config = None
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # so that a terminal without UTF-8 can show any path
        usage = functools.partial(short_help, __doc__)
        asked = {"-h": usage, "--help": usage, "--version": version, "--list": overview}
        if shown := next((asked[word] for word in arguments if word in asked), None):
            print(shown())
            return
        resume = any(word.split("=")[0] == "--resume" for word in arguments)
        config = parse_resume(arguments) if resume else parse(arguments, __doc__)
        run(config, resume=resume)
        print(f"{config.out}/final.png")
    except (Exception, KeyboardInterrupt) as error:
        code, line = explain(error)
        if line is None or "--debug" in arguments:
            traceback.print_exc()
        if line is not None:
            resumable = not isinstance(error, InputError | FloatingPointError)  # These errors would recur.
            started = resumable and config and config.out and (Path(config.out) / "config.yaml").is_file()
            resume = f"; {shlex.join(['python', 'sds2d.py', '--resume', config.out])} continues" if started else ""
            print(f"sds2d.py: {' '.join(line.split())}{resume}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
