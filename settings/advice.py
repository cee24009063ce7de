"""What the user leaves open: filled by the checkpoint, the method and the representation."""

import math
import re
import time
from pathlib import Path

from algorithms import ALGORITHMS
from errors import InputError
from priors.checkpoint import EMBEDDED, checkpoint_file, locate
from representations import REPRESENTATIONS
from schedules import uses


def advice(asked):
    """The settings that this checkpoint, method and representation bring with them, {name: value}, to stand before the user's."""
    algorithm, kind = ALGORITHMS[asked.algo.name], asked.rep.kind
    checkpoint = locate(asked.prior.path)
    file = checkpoint_file(checkpoint, "sds2d.json")
    names = (kind, asked.algo.name, f"{asked.algo.name} {kind}")
    for name in names:
        if not isinstance(file.get(name, {}), dict):
            raise InputError(f"{checkpoint}/sds2d.json: {name} should be a JSON object of settings")
        strange = [key for key in file.get(name, {}) if not re.match(r"(algo|rep|schedule)\.|(steps|particles)$", key)]
        if strange:
            raise InputError(f"{checkpoint}/sds2d.json: {strange[0]} is nothing that a checkpoint can advise")
    by_kind, by_method, by_both = (file.get(name, {}) for name in names)
    values = {
        "steps": 1000,
        "particles": 4,
        "schedule.timestep": "uniform",
        "schedule.weight": "constant",
        "schedule.t_min": 0.02,
        "schedule.t_max": 0.98,
        "rep.init": "noise",
        "rep.optimizer": "adam",
        **by_kind,
        **algorithm.defaults,
        **by_method,
        **by_both,
        **algorithm.requires,
    }
    # What the user implies comes first; and a learning rate is advice for the optimizer it comes with.
    if asked.rep.init_images:
        values["rep.init"] = "image"
    elif asked.rep.init_color:
        values["rep.init"] = "constant"
    elif asked.rep.init_std is not None:
        values["rep.init"] = "noise"
    # Advice on one start is none on another.
    start = asked.rep.init or values["rep.init"]
    for setting, belongs in (("rep.init_std", "noise"), ("rep.init_color", "constant")):
        if start != belongs and setting not in algorithm.requires:
            values.pop(setting, None)
    if asked.rep.optimizer not in (None, values["rep.optimizer"]):
        values.pop("rep.lr", None)
    # And on one schedule none on another.
    chosen = [getattr(asked.schedule, kind) or values[f"schedule.{kind}"] for kind in ("timestep", "weight")]
    for name in [name for name in values if name.startswith("schedule.") and name not in algorithm.requires]:
        if not uses(name.split(".")[1], *chosen):
            values.pop(name)
    return values


def resolve(config):
    """Fills what is still None, and makes paths absolute."""
    if config.rep.lr is None:
        config.rep.lr = REPRESENTATIONS[config.rep.kind].learning_rates[config.rep.optimizer]
    if config.rep.init == "noise" and config.rep.init_std is None:
        config.rep.init_std = 1.0
    if config.rep.init == "constant" and config.rep.init_color is None:
        config.rep.init_color = (0.5, 0.5, 0.5)
    if config.log.every is None:
        config.log.every = max(5, math.ceil(config.steps / 10))

    # config.yaml must mean the same from any directory.
    config.rep.init_images = tuple(str(Path(path).absolute()) for path in config.rep.init_images)
    config.source_image = tuple(str(Path(path).absolute()) for path in config.source_image)
    checkpoint = locate(config.prior.path)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(EMBEDDED.parent.parent):
        config.prior.path = str(checkpoint)
    if config.out is None:
        slug = re.sub(r"[^a-z0-9]+", "-", config.prompt[0].lower()).strip("-")[:40] if config.prompt else ""
        config.out = f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-{config.algo.name}-{config.rep.kind}-{slug or 'prompt'}"
    return config
