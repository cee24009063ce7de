"""Defaults for settings that are not given, from the checkpoint, the method and the representation."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from algorithms import ALGORITHMS
from config.settings import Config, check_values, flatten, set_values
from config.validation import unused
from errors import require
from priors.files import EMBEDDED, checkpoint_file, locate, user_path
from representations import REPRESENTATIONS


def defaults(config: Config) -> tuple[dict[str, Any], str]:
    """{name: value} from the checkpoint's sds2d.json, the method and the representation, and where they come from."""
    name, kind = config.algo.name, config.rep.kind
    algorithm, representation = ALGORITHMS[name], REPRESENTATIONS[kind]
    checkpoint = locate(config.prior.path)
    file = checkpoint_file(checkpoint, "sds2d.json")
    method = next((key for key in (name, algorithm.like) if key in file), name)
    row = next((f"{key} {kind}" for key in (name, method) if f"{key} {kind}" in file), f"{name} {kind}")
    lines = {key: file.get(key, {}) for key in (kind, method, row)}
    for key, line in lines.items():
        require(isinstance(line, dict), f"{checkpoint}/sds2d.json: {key} must be an object of settings")
        for setting in line:
            allowed = setting.split(".")[0] in ("algo", "rep", "schedule", "steps", "particles")
            require(allowed, f"{checkpoint}/sds2d.json: a checkpoint cannot set a default for {setting}")
    searched = lines[method] | lines[row]
    if config.paper:
        searched = {key: value for key, value in searched.items() if key.startswith(("rep.", "steps"))}
    values = {"steps": 1000, "particles": 4, "schedule.timestep": "uniform", "schedule.weight": "constant"}
    values |= {"schedule.t_min": 0.02, "rep.init": "noise", "rep.init_std": 1.0}
    values |= {"rep.init_color": (0.5, 0.5, 0.5), "rep.optimizer": "adam"}
    edit = {"rep.init": "source", "particles": 1} if algorithm.edits else {}
    values |= lines[kind] | edit | algorithm.defaults | searched | algorithm.required
    # Given settings may imply others, and a default learning rate is for one optimizer only.
    values["particles"] = len(config.seeds) or values["particles"]
    rep = config.rep
    implied = {"image": rep.init_images, "constant": rep.init_color, "noise": rep.init_std is not None}
    values["rep.init"] = next((init for init, given in implied.items() if given), values["rep.init"])
    optimizer = config.rep.optimizer or values["rep.optimizer"]
    if optimizer != values["rep.optimizer"] or "rep.lr" not in values:
        values["rep.lr"] = representation.learning_rates[optimizer]
    source = f"{config.prior.path}/sds2d.json, {method}" if method in file else f"built into {name}"
    return values, f"{source}; the paper's for the method" if config.paper else source


def resolve(config: Config, given: Collection[str] | None = None) -> Config:
    """Fills in unset settings, in place. Paths become absolute.

    given: the names of the settings that are set; None: those that differ from Config(), for a Config made in Python.
    """
    check_values(config)
    flat, initial, (values, source) = flatten(config), flatten(Config()), defaults(config)
    known = [name for name in flat if flat[name] != initial[name]] if given is None else given
    new = {name: value for name, value in values.items() if name not in known or flat.get(name) is None}
    new = {name: value for name, value in new.items() if not unused(name, flat | new)}
    # A Config that was resolved before is complete, even where a value equals that of Config().
    if given is not None or any(flat.get(name) is None and value is not None for name, value in new.items()):
        set_values(config, new, source)
    recordings = min(max(3, config.steps // 40), 10)
    config.log.every = config.log.every or math.ceil(config.steps / recordings)
    # config.yaml must mean the same from any directory.
    config.rep.init_images = tuple(map(absolute, config.rep.init_images))
    config.source_image = tuple(map(absolute, config.source_image))
    config.source_mask = tuple(map(absolute, config.source_mask))
    checkpoint = locate(config.prior.path)
    if isinstance(checkpoint, Path) and not checkpoint.is_relative_to(EMBEDDED.parent.parent):
        config.prior.path = str(checkpoint)
    if config.eval.clip and user_path(config.eval.clip).is_dir():
        config.eval.clip = absolute(config.eval.clip)
    config.out = None if config.out is None else str(user_path(config.out))
    return config


def absolute(path: str) -> str:
    return str(user_path(path).absolute())
