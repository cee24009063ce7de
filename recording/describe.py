"""What sds2d.py says in words: its help and lists, and a run in a line or two."""

import importlib.metadata
import math
import platform
import sys
import textwrap
from pathlib import Path

import torch

from algorithms import ALGORITHMS
from algorithms.method import Method
from algorithms.particles import Particles
from priors.families import FAMILIES
from recording.environment import commit
from representations import REPRESENTATIONS
from schedules.schedule import Schedule
from schedules.timestep import TIMESTEPS
from schedules.weight import WEIGHTS

HELP = Path(__file__).resolve().parent.parent / "docs" / "help.txt"
INDENT = " " * 41  # of the right column in help.txt
SOURCE_ERROR = 10**-2.2  # MSE at 22 dB PSNR. The embedded prior reaches 32 dB on its own drawings, 14 to 25 on photos.


def answer(arguments: list[str], description: str) -> str | None:
    """What -h, --help, --version or --list asks for; None without such a flag."""
    for word in arguments:
        if word in ("-h", "--help"):
            return short_help(description)
        if word == "--version":
            return version()
        if word == "--list":
            return overview()
    return None


def short_help(description: str) -> str:
    """The description and the common flags, on one screen: help.txt with the available names filled in."""
    tables = {"methods": ALGORITHMS, "representations": REPRESENTATIONS, "timesteps": TIMESTEPS, "weights": WEIGHTS}
    names = {word: " ".join(table) for word, table in tables.items()}
    text = HELP.read_text(encoding="utf-8").format(description=description.strip(), **names)
    return "\n".join(textwrap.fill(line, 120, subsequent_indent=INDENT) for line in text.splitlines())


def version() -> str:
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "transformers"))
    return f"sds2d {commit() or ''}, Python {platform.python_version()}, {', '.join(libraries)}"


def overview() -> str:
    """All methods, representations, schedules and priors, one line each."""

    def of_file(cls):
        return sys.modules[cls.__module__].__doc__

    tables = {
        "Methods, --algo.name": {name: of_file(cls) for name, cls in ALGORITHMS.items()},
        "Representations, --rep.kind": {name: of_file(cls) for name, cls in REPRESENTATIONS.items()},
        "Timesteps, --schedule.timestep": {name: function.__doc__ for name, function in TIMESTEPS.items()},
        "Weights, --schedule.weight": {name: function.__doc__ for name, function in WEIGHTS.items()},
        "Priors, --prior.path: a folder or hub id of a pipeline": {name: f.name for name, f in FAMILIES.items()},
    }
    blocks = []
    for title, texts in tables.items():
        first = {name: " ".join((text or "").split("\n\n")[0].split()) for name, text in texts.items()}
        blocks.append("\n".join([title, *(f"  {name:<26} {text}" for name, text in first.items())]))
    return "\n\n".join(blocks)


def describe(config, schedule: Schedule, source: str) -> str:
    """A run in one line. source: where its defaults come from."""
    plan = f"{config.steps} steps, {config.schedule.timestep} timesteps, {config.schedule.weight} weight"
    note = f"\nnote: {schedule.note}" if schedule.note else ""
    return f"{config.out}: {plan}, {config.rep.optimizer} at {config.rep.lr:g} (defaults: {source}){note}"


def prior_warnings(algorithm: Method, particles: Particles) -> list[str]:
    """Warnings about prompts, source images or a guidance scale that do not suit the prior."""
    prior, lines = algorithm.prior, []
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
