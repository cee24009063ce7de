"""What can be known to be wrong before anything is computed or written."""

import math
import operator
import os
import tempfile
from dataclasses import fields
from pathlib import Path

from schedules.check import check as check_schedule

from algorithms import ALGORITHMS
from errors import InputError
from representations import REPRESENTATIONS
from representations.start import open_image
from settings.flags import flatten


def check(config, new=True):
    """Raises InputError, in one line. new: whether the run's folder is still to be made."""

    def require(good, message):
        if not good:
            raise InputError(message)

    for name, value in flatten(config).items():
        for text in value if isinstance(value, tuple) else (value,):
            readable = not isinstance(text, str) or is_text(text)
            require(readable, f"--{name.replace('_', '-')} {ascii(text)} is not UTF-8")
    rows = len(config.prompt) * config.particles
    require(config.prompt, "--prompt needs at least one prompt; an empty one is ''")
    for name, value in {
        "particles": config.particles,
        "steps": config.steps,
        "log.every": config.log.every,
        "log.fps": config.log.fps,
        "log.tile": config.log.tile,
        "log.timesteps_every": config.log.timesteps_every,
        "log.checkpoint_every": config.log.checkpoint_every,
    }.items():
        require(value is None or value >= 1, f"--{name.replace('_', '-')} {value}: at least 1 is needed")
    require(config.steps <= 10**7, f"--steps {config.steps}: at most 10,000,000 can be planned")
    require(config.log.fps <= 240, f"--log.fps {config.log.fps}: at most 240 can be shown")
    for t in config.log.timesteps:
        require(0 <= t < math.inf, f"--log.timesteps {t}: timesteps from 0, or fractions of T up to 1, are needed")
    # The generators' own limit: larger seeds repeat.
    require(0 <= config.seed <= 2**32 - rows, f"--seed {config.seed}: a number from 0 up to 2^32 is needed")
    require(0 < config.rep.lr < 1e30, f"--rep.lr {config.rep.lr}: a learning rate above 0 is needed, below 1e30")
    name, algorithm, scale = config.algo.name, ALGORITHMS[config.algo.name], config.algo.guidance_scale
    require("algo.guidance_scale" in algorithm.defaults or scale is None, f"--algo.guidance-scale: {name} has none")
    require(scale is None or math.isfinite(scale), f"--algo.guidance-scale {scale}: a finite number is needed")
    algorithm.check(getattr(config.algo, name, None), require)
    for key, needed in algorithm.requires.items():
        value = operator.attrgetter(key)(config)
        require(value == needed, f"--{key.replace('_', '-')} {value}: {name} needs {needed}")
    for other, cls in ALGORITHMS.items():
        require(
            other == name or not cls.Settings or getattr(config.algo, other) == cls.Settings(),
            f"--algo.{other}. settings are for --algo.name {other}, not {name}",
        )
    samplers = [key for key, cls in ALGORITHMS.items() if cls.samples()]
    require(
        config.schedule.timestep != "ddim" or name in samplers,
        f"--schedule.timestep ddim is for --algo.name {' or '.join(samplers)}, not {name}",
    )
    check_schedule(config.schedule, config.steps, require)

    def require_for_rows(flag, values):
        counts = sorted({1, len(config.prompt), rows})
        require(len(values) in counts, f"{flag}: {len(values)} are given, {' or '.join(map(str, counts))} are needed")

    if algorithm.edits:
        require(config.source_image, f"{name} edits: --source-image FILE is missing")
        require(config.source_prompt, f"{name} edits: --source-prompt, what is seen in the source image, is missing")
        require_for_rows("--source-image", config.source_image)
        require_for_rows("--source-prompt", config.source_prompt)
    else:
        *editors, last = (key for key, value in ALGORITHMS.items() if value.edits)
        editors = f"{', '.join(editors)} and {last}"
        require(not config.source_image, f"--source-image is for {editors}; {name} can start from --rep.init-images")
        require(not config.source_prompt, f"--source-prompt is for {editors}, not {name}")
        require(config.rep.init != "source", f"--rep.init source is for {editors}, not {name}")
    REPRESENTATIONS[config.rep.kind].check(config.rep, require)
    for kind, cls in REPRESENTATIONS.items():
        for setting in fields(cls.Settings) if cls.Settings and kind != config.rep.kind else ():
            require(
                getattr(config.rep, setting.name) == setting.default,
                f"--rep.{setting.name.replace('_', '-')} is for --rep.kind {kind}, not {config.rep.kind}",
            )
    std, color = config.rep.init_std, config.rep.init_color
    if config.rep.init == "noise":
        require(0 <= std < math.inf, f"--rep.init-std {std}: 0 or more is needed")
    else:
        require(std is None, f"--rep.init-std is for --rep.init noise, not {config.rep.init}")
    if config.rep.init == "constant":
        require(all(0 <= c <= 1 for c in color), f"--rep.init-color {color}: three numbers in [0, 1]")
    else:
        require(color is None, f"--rep.init-color is for --rep.init constant, not {config.rep.init}")
    if config.rep.init == "image":
        require(config.rep.init_images, "--rep.init image needs --rep.init-images FILE …")
        require_for_rows("--rep.init-images", config.rep.init_images)
    else:
        require(not config.rep.init_images, f"--rep.init-images is for --rep.init image, not {config.rep.init}")
    for path in (*config.source_image, *config.rep.init_images):
        open_image(path)

    if new:
        check_out(Path(config.out), require)


def check_out(out, require):
    """The folder is not there, and can be made."""
    require(not os.path.lexists(out), f"--out {out} exists; name a folder that does not")
    parent = next(p for p in out.absolute().parents if os.path.lexists(p))
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent))  # The permission bits do not tell: root, read-only disks, /proc.
    except OSError as error:
        raise InputError(f"--out {out}: no folder can be made in {parent} ({error.strerror})") from error


def is_text(text):
    try:
        text.encode()
    except UnicodeEncodeError:  # Bytes of the command line that are no UTF-8 arrive as surrogates.
        return False
    return True
