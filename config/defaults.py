"""What is not given: defaults of the checkpoint, the method and the representation."""

import math
from pathlib import Path
from typing import Any

from algorithms import ALGORITHMS
from config.settings import Config, check_values, flatten, set_values
from config.validation import unused
from errors import InputError
from priors.checkpoint import EMBEDDED, checkpoint_file, locate, user_path
from representations import REPRESENTATIONS


def defaults(config: Config) -> tuple[dict[str, Any], str]:
    """Of the checkpoint (its sds2d.json), the method and the representation: {name: value}, and where they are from."""
    name, kind = config.algo.name, config.rep.kind
    algorithm, representation = ALGORITHMS[name], REPRESENTATIONS[kind]
    checkpoint = locate(config.prior.path)
    file = checkpoint_file(checkpoint, "sds2d.json")
    method = next((key for key in (name, algorithm.like) if key in file), name)
    own = f"{name} {kind}"
    both = own if own in file else f"{method} {kind}"
    lines = [file.get(line, {}) for line in (kind, method, both)]
    if not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{checkpoint}/sds2d.json: {kind}, {method} and {both} should be objects of settings")
    for key in (key for line in lines for key in line):
        if key.split(".")[0] not in ("algo", "rep", "schedule", "steps", "particles"):
            raise InputError(f"{checkpoint}/sds2d.json: {key} is no setting that a checkpoint has defaults for")
    if config.paper:
        lines[1:] = [{key: line[key] for key in line if key.startswith(("rep.", "steps"))} for line in lines[1:]]
    by_kind, by_method, by_both = lines
    values = {"steps": 1000, "particles": 4, "schedule.timestep": "uniform", "schedule.weight": "constant"}
    values |= {"schedule.t_min": 0.02, "rep.init": "noise", "rep.init_std": 1.0}
    values |= {"rep.init_color": (0.5, 0.5, 0.5), "rep.optimizer": "adam"}
    values |= by_kind | algorithm.defaults | by_method | by_both | algorithm.required
    values["particles"] = len(config.seeds) or values["particles"]
    # What the user gave may imply the start, and a learning rate belongs to its optimizer.
    given = [("image", config.rep.init_images), ("constant", config.rep.init_color)]
    given += [("noise", config.rep.init_std is not None)]
    values["rep.init"] = next((start for start, setting in given if setting), values["rep.init"])
    optimizer = config.rep.optimizer or values["rep.optimizer"]
    if optimizer != values["rep.optimizer"] or "rep.lr" not in values:
        values["rep.lr"] = representation.learning_rates[optimizer]
    initial = flatten(Config())
    flat = flatten(config)
    flat |= {key: value for key, value in values.items() if flat.get(key) == initial.get(key)}
    values = {key: values[key] for key in values if key in algorithm.required or not unused(key, flat)}
    own = config.paper or method not in file
    return values, f"of {name} itself" if own else f"{config.prior.path}/sds2d.json, {method}"


def resolve(config: Config) -> Config:
    """Fills what is not set, in place: for a Config made in Python, what has its class's value. Paths become
    absolute."""
    check_values(config)
    given, initial, (values, source) = flatten(config), flatten(Config()), defaults(config)
    if any(given.get(name) is None and values[name] is not None for name in values):
        set_values(config, {name: values[name] for name in values if given.get(name) == initial.get(name)}, source)
    config.log.every = config.log.every or min(max(30, math.ceil(config.steps / 10)), math.ceil(config.steps / 5))
    # config.yaml must mean the same from any directory.
    config.rep.init_images = tuple(str(user_path(path).absolute()) for path in config.rep.init_images)
    config.source_image = tuple(str(user_path(path).absolute()) for path in config.source_image)
    config.source_mask = tuple(str(user_path(path).absolute()) for path in config.source_mask)
    checkpoint = locate(config.prior.path)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(EMBEDDED.parent.parent):
        config.prior.path = str(checkpoint)
    if config.eval.clip and user_path(config.eval.clip).is_dir():
        config.eval.clip = str(user_path(config.eval.clip).absolute())
    config.out = None if config.out is None else str(user_path(config.out))
    return config
