"""Score distillation in two dimensions: pick a method, a representation and a schedule, and look at what happens.

    python sds2d.py
    python sds2d.py --prompt "a red heart" "a blue heart" --algo.name vsd --rep.kind pixel
    python sds2d.py --algo.name dds --prompt "a green apple" \\
        --source-image priors/emoji64/edits/15_source.png --source-prompt "a red apple"
    python sds2d.py --prior.path stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a photo of a fox"
"""

import sys
import time
from pathlib import Path

from algorithms import ALGORITHMS
from algorithms.particles import Particles
from evaluation import evaluator
from prior import InputError, Prior, per_row
from recording import Recorder, write
from recording.plots import schedule_plot
from representations import REPRESENTATIONS, make_optimizer
from representations.start import load_images
from schedules import Schedule
from settings import command, parse


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
    schedule = Schedule(config.schedule, prior, particles, config.steps, algorithm.least_timestep())
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


def run(config, prior=None, watch=None):
    """One run, from a checked and resolved Config to the folder config.out → the final images (B, 3, H, W).

    prior: one that is loaded already, to save loading it again; None loads config.prior.
    watch: watch(step, images) is given the images as they stand before the step, whenever a picture is taken.
    """
    from tqdm import tqdm

    repeat = command(config)
    prior = prior or Prior(config.prior)
    config.prior.dtype, config.prior.device = str(prior.dtype).removeprefix("torch."), str(prior.device)
    algorithm, representation, schedule, optimizer = build(config, prior)
    for prompt in algorithm.particles.texts:
        for line in prior.warnings(prompt):
            print(f"warning: {prompt[:60]!r}: {line}", file=sys.stderr)
    scores = evaluator(config.eval, config.prior.path, algorithm.particles)
    recorder = Recorder(Path(config.out), config, algorithm, representation, scores)
    try:
        write(recorder.folder / "schedule.png", lambda beside: schedule_plot(beside, schedule))
        bar = tqdm(range(config.steps), desc=config.algo.name, unit="step")
        for step in bar:
            images = recorder.before(step)
            if watch and images is not None:
                watch(step, images)
            start = time.perf_counter()
            z, t, weight, gradient = distill(algorithm, representation, schedule, optimizer, step)
            recorder.after(step, z, t, weight, gradient, time.perf_counter() - start)
            bar.set_postfix(t=t[0].item(), refresh=False)
        images = recorder.finish(repeat)
    except BaseException as error:
        try:
            if isinstance(error, FloatingPointError):
                recorder.flush()  # An earlier step's gradient may be where it began.
        finally:
            recorder.abandon()
        raise
    return images


def main():
    try:
        config = parse(sys.argv[1:], __doc__)
        run(config)
    except InputError as error:
        print(f"sds2d.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"sds2d.py: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print("sds2d.py: the GPU has too little memory for this run; fewer --particles or prompts need less", file=sys.stderr)
        sys.exit(1)
    print(f"{config.out}/final.png")


if __name__ == "__main__":
    main()
