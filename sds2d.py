"""Score distillation in two dimensions: pick a method, a representation and a schedule, and look at what happens.

    python sds2d.py
    python sds2d.py --prompt "a red heart" "a blue heart" --algo.name vsd --rep.kind pixel
    python sds2d.py --algo.name dds --prompt "a green apple" \\
        --source-image priors/emoji64/edits/15_source.png --source-prompt "a red apple"
    python sds2d.py --prior.path stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a photo of a fox"
"""

import contextlib
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path

from algorithms import ALGORITHMS
from algorithms.particles import Particles
from errors import InputError
from priors.evaluation import evaluator
from priors.prior import Prior, per_row
from recording import Recorder
from recording.checkpoint import NAME, Checkpoints
from recording.files import held, make_folder, write
from recording.interruption import Interrupted, Interruption
from recording.look import named_timesteps
from recording.made_with import changes, made_with
from recording.plots import schedule_plot
from recording.resume import go_on
from representations import REPRESENTATIONS, make_optimizer
from representations.start import load_images
from schedules import Schedule
from settings import command, parse, reopen, repeats, resumes
from settings.stored import dump


def build(config, prior):
    """Everything that a step needs: (algorithm, representation, schedule, optimizer)."""
    rows = len(config.prompt) * config.particles

    def each(values):
        """One value for all rows, one a prompt, or one a row → one a row."""
        return [value for value in values for _ in range(rows // len(values))]

    source_images = load_images(config.source_image, prior, rows) if config.source_image else None
    particles = Particles(
        prior, each(config.prompt), config.negative_prompt, config.seed, each(config.source_prompt), source_images
    )
    algorithm = ALGORITHMS[config.algo.name](prior, particles, config.algo, config.steps)
    representation = REPRESENTATIONS[config.rep.kind](config.rep, prior, particles)
    least, samplers = algorithm.least_timestep(), algorithm.timesteps()
    schedule = Schedule(config.schedule, prior, particles, config.steps, least, samplers)
    optimizer = make_optimizer(config.rep.optimizer, representation.parameters(), config.rep.lr)
    return algorithm, representation, schedule, optimizer


def distill(algorithm, representation, schedule, optimizer, step):
    """One step → its latents z (B, C, h, w), timesteps t (B,) and weights w (B,), both on the CPU, and gradient (B, C, h, w)."""
    t = schedule.timestep(step)  # (B,)
    weight = schedule.weight(t, step)  # (B,)
    z = representation.latents()  # (B, C, h, w), differentiable
    gradient = algorithm.gradient(z.detach(), t, step / schedule.steps)  # (B, C, h, w), no graph through the prior
    algorithm.update(z.detach())  # VSD's LoRA learns; nothing for the others
    optimizer.zero_grad(set_to_none=True)
    z.backward(per_row(weight, gradient) * gradient)  # carries it to the representation's parameters
    optimizer.step()
    representation.project()
    return z.detach(), t, weight, gradient


def run(config, prior=None, watch=None, then=None, resume=False):
    """One run, from a checked and resolved Config to the folder config.out → the final images (B, 3, H, W).

    prior: one that is loaded already, to save loading it again; None loads config.prior.
    watch: watch(step, images) is given the images as they stand before the step, whenever a picture is taken.
    then: what an earlier run of this Config was made with: what has changed since is told.
    resume: goes on with that run, which is in config.out, from its last checkpoint.
    """
    from tqdm import tqdm

    repeat, folder = command(config), Path(config.out)
    prior = prior or Prior(config.prior)
    config.prior.dtype, config.prior.device = str(prior.dtype).removeprefix("torch."), str(prior.device)
    algorithm, representation, schedule, optimizer = parts = build(config, prior)
    for prompt in algorithm.particles.texts:
        for line in prior.warnings(prompt):
            print(f"warning: {prompt[:60]!r}: {line}", file=sys.stderr)
    if schedule.note:
        print(f"note: {schedule.note}", file=sys.stderr)
    scores = evaluator(config.eval, config.prior.path, algorithm.particles)
    timesteps = named_timesteps(config.log.timesteps, algorithm)
    now = made_with(prior, config)
    for line in changes(then, now, resume):
        print(f"warning: {line}", file=sys.stderr)
    if not resume:
        make_folder(folder, dump(config, now))
    with held(folder), Interruption() as interruption:
        checkpoints = Checkpoints(folder, optimizer, algorithm)
        first = go_on(folder, dump(config, then), checkpoints, config.steps) if resume else 0
        write(folder / "schedule.png", lambda beside: schedule_plot(beside, schedule))
        recorder = Recorder(folder, config, algorithm, representation, checkpoints, timesteps, scores)
        bar, step = tqdm(initial=first, total=config.steps, desc=config.algo.name, unit="step"), first
        with contextlib.closing(recorder), bar:
            try:
                while step < config.steps and not interruption.signal:
                    images = recorder.before(step)
                    if watch and images is not None:
                        watch(step, images)
                    start = time.perf_counter()
                    z, t, weight, gradient = distill(*parts, step)
                    recorder.after(step, z, t, weight, gradient, time.perf_counter() - start)
                    step += 1
                    bar.set_postfix(t=t[0].item(), refresh=False)
                    bar.update()
                images = recorder.finish(step, repeat)
            except FloatingPointError:
                with contextlib.suppress(OSError):
                    recorder.summarize(repeat)  # An earlier step may show where it began.
                raise
        if interruption.signal:
            raise Interrupted(interruption.signal)
    return images


def main():
    arguments, config = sys.argv[1:], None
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # A terminal without UTF-8 can show any path.
        resume = resumes(arguments)
        if resume:
            config, then = reopen(arguments)
        else:
            config = parse(arguments, __doc__)
            then = repeats(arguments)
        run(config, then=then, resume=resume)
        print(f"{config.out}/final.png")
    except (Exception, KeyboardInterrupt) as error:
        code, line = explain(error, config)
        if line is None or "--debug" in arguments:
            traceback.print_exc()
        if line is not None:
            print(f"sds2d.py: {' '.join(line.split())}", file=sys.stderr)
        sys.exit(code)


def explain(error, config):
    """An error → the exit code and its one line, or None for one that should not have been."""
    folder = config and Path(config.out)
    there = folder and (folder / "config.yaml").is_file()
    goes_on = f"; {shlex.join(['python', 'sds2d.py', '--resume', config.out])} goes on" if there else ""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, FloatingPointError):
        return 1, f"{error}" + (f"; {folder / NAME} is from before" if there and (folder / NAME).is_file() else "")
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "signal", signal.SIGINT), f"stopped{goes_on}"
    if isinstance(error, OSError):
        return 1, f"{error.filename or folder or ''}: {error.strerror or error}{goes_on}"
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "DefaultCPUAllocator" in str(error):
        return 1, "there is too little memory for this run; fewer --particles or prompts need less"
    return 1, None


if __name__ == "__main__":
    main()
