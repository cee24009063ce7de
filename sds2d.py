"""Score distillation in two dimensions: pick a method, a representation and a schedule, and look at what happens.

    python sds2d.py
    python sds2d.py --prompt "a red heart" "a blue heart" --algo.name vsd --rep.kind pixel
    python sds2d.py --algo.name dds --source-image apple.png --source-prompt "a red apple" --prompt "a green apple"
    python sds2d.py --prior.path stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a photo of a fox"
"""

import contextlib
import io
import math
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# The settings are parsed before torch and its libraries load: --help and wrong flags answer at once. For this every file
# below imports torch inside the functions that need it.
from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles
from prior import InputError, Prior, PriorConfig, checkpoint_file, locate, per_row
from recording import LogConfig, Recorder
from representations import REPRESENTATIONS, RepresentationConfig, make_optimizer
from representations.start import load_images, open_image
from schedules import Schedule, ScheduleConfig


@dataclass
class Config:
    prompt: tuple[str, ...] = ("a red apple",)
    """What to make. Several prompts make several rows."""
    negative_prompt: str = ""
    """y⁻, what guidance leads away from."""
    particles: int | None = None
    """Pictures for each prompt. None: 4, but 1 for edits."""
    source_image: tuple[str, ...] = ()
    """What dds and pds edit: an image file for all prompts, one a prompt, or one a particle."""
    source_prompt: tuple[str, ...] = ()
    """What is seen in it, likewise."""
    steps: int | None = None
    """Optimiser steps. None: 1000, unless the method or the checkpoint knows better."""
    seed: int = 0
    """Row i of the batch draws its random numbers from seed + i."""
    out: str | None = None
    """Folder of the run, which must not exist. None: outputs/<time>-<algo>-<rep>-<prompt>."""
    algo: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    rep: RepresentationConfig = field(default_factory=RepresentationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    log: LogConfig = field(default_factory=LogConfig)


# ------------------------------------------------------------------------------------------------------------ settings


def setting(config, name):
    """The dataclass that holds a setting, None where there is none, and its name there: "algo.guidance_scale"."""
    *path, last = name.split(".")
    for part in path:
        config = getattr(config, part, None)
    return config, last


def resolve(config):
    """Fills every setting that is None: by the checkpoint (its sds2d.json), then by the method and the representation."""
    algorithm, representation = ALGORITHMS[config.algo.name], REPRESENTATIONS[config.rep.kind]
    checkpoint = locate(config.prior.path)
    advice = checkpoint_file(checkpoint, "sds2d.json")
    if config.rep.init_images and config.rep.init is None:
        config.rep.init = "image"
    defaults = {
        "steps": 1000,
        "particles": 4,
        "schedule.timestep": "uniform",
        "schedule.weight": "constant",
        "schedule.t_min": 0.02,
        "schedule.t_max": 0.98,
        "rep.init": "noise",
        "rep.optimizer": "adam",
        **algorithm.defaults,
        **algorithm.requires,
        **advice.get(config.algo.name, {}),
        **advice.get(f"{config.algo.name} {config.rep.kind}", {}),
    }
    # A learning rate is advice for the optimizer it comes with.
    advised_lr = defaults if config.rep.optimizer in (None, defaults["rep.optimizer"]) else {}
    for name, value in {**defaults, "rep.lr": None}.items():
        owner, last = setting(config, name)
        if not hasattr(owner, last):
            raise InputError(f"{checkpoint}/sds2d.json names {name}, which is no setting")
        if getattr(owner, last) is None:
            setattr(owner, last, value)
    if config.rep.lr is None:
        config.rep.lr = advised_lr.get("rep.lr", representation.learning_rates[config.rep.optimizer])
    if config.log.every is None:
        config.log.every = max(1, config.steps // 40)

    # config.yaml must mean the same from any directory.
    config.rep.init_images = tuple(str(Path(path).absolute()) for path in config.rep.init_images)
    config.source_image = tuple(str(Path(path).absolute()) for path in config.source_image)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(Path(__file__).resolve().parent):
        config.prior.path = str(checkpoint)
    if config.out is None:
        slug = re.sub(r"[^a-z0-9]+", "-", config.prompt[0].lower()).strip("-")[:40] if config.prompt else ""
        config.out = f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-{config.algo.name}-{config.rep.kind}-{slug or 'prompt'}"
    return config


def check(config):
    """Raises InputError, in one line, for what can be known to be wrong before anything is computed or written."""

    def require(good, message):
        if not good:
            raise InputError(message)

    rows = len(config.prompt) * config.particles
    require(config.prompt, "--prompt needs at least one prompt; an empty one is ''")
    for name, value in {"particles": config.particles, "steps": config.steps, "log.every": config.log.every,
                        "log.fps": config.log.fps, "log.tile": config.log.tile}.items():  # fmt: skip
        require(value >= 1, f"--{name} {value}: at least 1 is needed")
    require(0 <= config.seed < 2**63 - rows, f"--seed {config.seed}: a number from 0 up to 2^63 is needed")
    require(0 < config.rep.lr < math.inf, f"--rep.lr {config.rep.lr}: a learning rate above 0 is needed")
    name, algorithm, scale = config.algo.name, ALGORITHMS[config.algo.name], config.algo.guidance_scale
    require("algo.guidance_scale" in algorithm.defaults or scale is None, f"--algo.guidance-scale: {name} has none")
    require(scale is None or math.isfinite(scale), f"--algo.guidance-scale {scale}: a finite number is needed")
    algorithm.check(getattr(config.algo, name, None), require)
    for key, needed in algorithm.requires.items():
        value = getattr(*setting(config, key))
        require(value == needed, f"--{key.replace('_', '-')} {value}: {name} needs {needed}")
    require(0 <= config.rep.init_std < math.inf, f"--rep.init-std {config.rep.init_std}: 0 or more is needed")
    require(all(0 <= c <= 1 for c in config.rep.init_color), f"--rep.init-color {config.rep.init_color}: three numbers in [0, 1]")
    low, high = config.schedule.t_min, config.schedule.t_max
    require(0 <= low <= high <= 1, f"--schedule.t-min {low} --schedule.t-max {high}: 0 ≤ t_min ≤ t_max ≤ 1 is needed")

    def require_for_rows(flag, values):
        counts = sorted({1, len(config.prompt), rows})
        require(len(values) in counts, f"{flag}: {len(values)} are given, {' or '.join(map(str, counts))} are needed")

    if algorithm.edits:
        require(config.source_image, f"{name} edits: --source-image FILE is missing")
        require(config.source_prompt, f"{name} edits: --source-prompt, what is seen in the source image, is missing")
        require_for_rows("--source-image", config.source_image)
        require_for_rows("--source-prompt", config.source_prompt)
    else:
        editors = " and ".join(key for key, value in ALGORITHMS.items() if value.edits)
        require(not config.source_image, f"--source-image is for {editors}; {name} can start from --rep.init-images")
        require(not config.source_prompt, f"--source-prompt is for {editors}, not {name}")
        require(config.rep.init != "source", f"--rep.init source is for {editors}, not {name}")
    if config.rep.init == "image":
        require(config.rep.init_images, "--rep.init image needs --rep.init-images FILE …")
        require_for_rows("--rep.init-images", config.rep.init_images)
    else:
        require(not config.rep.init_images, f"--rep.init-images is for --rep.init image, not {config.rep.init}")
    for path in (*config.source_image, *config.rep.init_images):
        open_image(path)

    out = Path(config.out)
    require(not os.path.lexists(out), f"--out {out} exists; name a folder that does not")
    parent = next(p for p in out.absolute().parents if os.path.lexists(p))
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent))  # The permission bits do not tell: root, read-only disks, /proc.
    except OSError as error:
        raise InputError(f"--out {out}: no folder can be made in {parent} ({error.strerror})") from error


# ----------------------------------------------------------------------------------------------------------------- run


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
    """One step → its timesteps t (B,), the weight w(t) (B,), both on the CPU, and the gradient (B, C, h, w)."""
    t = schedule.timestep(step)  # (B,)
    weight = schedule.weight(t)  # (B,)
    z = representation.latents()  # (B, C, h, w), differentiable
    gradient = algorithm.gradient(z.detach(), t, step / schedule.steps)  # (B, C, h, w), no graph through the prior
    algorithm.update(z.detach())  # VSD's LoRA learns; nothing for the others
    optimizer.zero_grad(set_to_none=True)
    z.backward(per_row(weight, gradient) * gradient)  # carries it to the representation's parameters
    optimizer.step()
    representation.project()
    return t, weight, gradient


def run(config, prior=None):
    """One run, from a checked and resolved Config to the folder config.out → the final images (B, 3, H, W).

    prior: one that is loaded already, to save loading it again; None loads config.prior.
    """
    import torch
    from tqdm import tqdm

    prior = prior or Prior(config.prior)
    config.prior.dtype, config.prior.device = str(prior.dtype).removeprefix("torch."), str(prior.device)
    algorithm, representation, schedule, optimizer = build(config, prior)
    for prompt in algorithm.particles.texts:
        for line in prior.warnings(prompt):
            print(f"warning: {prompt[:60]!r}: {line}", file=sys.stderr)
    recorder = Recorder(Path(config.out), config, config.prompt, config.particles)
    try:
        bar = tqdm(range(config.steps), desc=config.algo.name, unit="step")
        for step in bar:
            if recorder.due(step):
                recorder.flush()
                with torch.no_grad():
                    recorder.picture(step, representation.images())
            start = time.perf_counter()
            t, weight, gradient = distill(algorithm, representation, schedule, optimizer, step)
            recorder.metrics(step, t, weight, gradient, time.perf_counter() - start)
            bar.set_postfix(t=t[0].item(), refresh=False)
        with torch.no_grad():
            images = representation.images().clone()
        recorder.finish(config.steps, images)
    except BaseException:
        recorder.abandon()
        raise
    return images


def parse(arguments=None):
    """Command line → Config, resolved and checked. tyro's box of several lines becomes one line."""
    import tyro

    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            config = tyro.cli(Config, args=arguments, description=__doc__)
    except SystemExit as end:
        if not end.code:
            raise
        lines = message.getvalue().splitlines()
        # A terminal that knows UTF-8 gets a box, another a title and a rule; rules part the message from the hints.
        inside = [line.strip("│ ") for line in lines if line.startswith("│")] or lines[2:]
        text = re.sub(r"\s*[─-]{8,}\s*", " | ", " ".join(inside)).split(" | For full")[0].split(" | Argument")[0]
        raise InputError(f"{' '.join(text.split())} (--help lists every flag)") from end
    check(resolve(config))
    return config


def main():
    try:
        config = parse()
        run(config)
    except InputError as error:
        print(f"sds2d.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"sds2d.py: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{config.out}/final.png")


if __name__ == "__main__":
    main()
