"""Refuses settings that do not go together, before anything is loaded or written."""

import importlib.util
import itertools
import os
from dataclasses import fields
from typing import Any

from algorithms import ALGORITHMS
from algorithms.repulsion import REPULSION
from config.settings import Config, flag, flatten
from errors import require
from representations import REPRESENTATIONS
from representations.start import open_image
from schedules.curves import validate_points
from schedules.schedule import USED_BY

EDITORS = [name for name, cls in ALGORITHMS.items() if cls.edits]
SAMPLERS = [name for name, cls in ALGORITHMS.items() if cls.is_sampler]
DISTILLING = [name for name in ALGORITHMS if name not in SAMPLERS]
EDITING_IN_STEPS = [name for name in EDITORS if name in DISTILLING]
GUIDED = [name for name, cls in ALGORITHMS.items() if "algo.guidance_scale" in cls.defaults]
RESCALED = [name for name in GUIDED if ALGORITHMS[name].is_guided]
OWN = {kind: [entry.name for entry in fields(cls.Settings)] for kind, cls in REPRESENTATIONS.items() if cls.Settings}
# Settings that only some choices use: (prefix, settings or groups of them, {choosing setting: its values}).
USES = [
    ("algo.", "guidance_scale", {"algo.name": GUIDED}),
    ("algo.", "guidance_rescale perp_neg_prompts perp_neg_weights", {"algo.name": RESCALED}),
    ("", "batch algo.updates_per_step algo.repulsion rep.lr_schedule rep.lr_warm_up", {"algo.name": DISTILLING}),
    ("algo.", "repulsion_scale", {"algo.repulsion": list(REPULSION)}),
    ("", "source_image source_prompt", {"algo.name": EDITORS}),
    ("", "source_negative_prompt source_mask algo.source_guidance_scale", {"algo.name": EDITING_IN_STEPS}),
    ("rep.", "init_std", {"rep.init": ["noise"]}),
    ("rep.", "init_color", {"rep.init": ["constant"]}),
    ("rep.", "init_images", {"rep.init": ["image"]}),
    ("rep.", "fit_steps", {"rep.init": ["image", "source"]}),
    ("rep.", "betas eps", {"rep.optimizer": ["adam", "adamw"]}),
    *(("algo.", name, {"algo.name": [name]}) for name in ALGORITHMS),
    ("algo.vsd.", "lora_layers lora_rank lora_lr", {"algo.vsd.phi": ["lora"]}),
    ("algo.vsd.", "full_lr", {"algo.vsd.phi": ["full"]}),
    ("algo.vsd.", "lora_updates lora_warm_up lora_particles gamma", {"algo.vsd.phi": ["lora", "full"]}),
    ("algo.sdi.", "inversion_guidance_scale inversion_steps eta", {"algo.sdi.noise": ["inverted"]}),
    *(("schedule.", name, {f"schedule.{key}": users[key] for key in users}) for name, users in USED_BY.items()),
]
for setting in itertools.chain(*OWN.values()):
    USES.append(("rep.", setting, {"rep.kind": [kind for kind in OWN if setting in OWN[kind]]}))
USES += [
    ("rep.", "hash_levels hash_size hash_features table_lr", {"rep.encoding": ["hashgrid"]}),
    ("rep.", "frequency", {"rep.encoding": ["siren", "fourier"]}),
    ("rep.", "min_width max_width width_lr", {"rep.closed": [False]}),
]
CHOICES = [(f"{prefix}{name}.", choices) for prefix, names, choices in USES for name in names.split()]


def unused(name: str, flat: dict[str, Any]) -> str | None:
    """Why a setting is not used with the choices in `flat`, or None."""
    for setting, choices in CHOICES:
        if f"{name}.".startswith(setting) and all(flat[key] not in choices[key] for key in choices):
            users = " or ".join(f"{flag(key)} {', '.join(map(str, choices[key]))}" for key in choices)
            return f"{flag(name)} works only with {users}, not {', '.join(str(flat[key]) for key in choices)}"
    return None


def validate(config: Config, new: bool = True) -> Config:
    """Raises InputError for any mistake that can be found before anything is loaded or written.

    new: whether the run's folder must not exist yet.
    """
    flat, initial, name = flatten(config), flatten(Config()), config.algo.name
    for key, needed in ALGORITHMS[name].required.items():
        require(flat[key] == needed, f"{flag(key)} {flat[key]}: {name} needs {needed}")
    for key, value in flat.items():
        reason, users = unused(key, flat), USED_BY.get(key.removeprefix("schedule."))
        require(value == initial[key] or not reason, reason)
        if users and not reason and key != "schedule.t_max":  # which has a default in the prior
            chooser = f"schedule.{next(iter(users))}"
            require(value not in (None, ()), f"{flag(chooser)} {flat[chooser]} needs {flag(key)}")
    for key, value, names in (("schedule.timestep", "ddim", SAMPLERS), ("rep.init", "source", EDITORS)):
        message = f"{flag(key)} {value} works only with --algo.name {', '.join(names)}, not {name}"
        require(flat[key] != value or name in names, message)
    seeds, particles, rows = config.seeds, config.particles, len(config.prompt) * config.particles
    require(not (seeds and config.seed), "--seeds replaces --seed; give only one of them")
    highest = config.seed + rows - 1
    require(highest < 2**32, f"--seed {config.seed}: the last of {rows} particles gets {highest}; must be below 2^32")
    message = f"{len(seeds)} --seeds: must be {particles}, one for each of a prompt's --particles"
    require(len(seeds) in (0, particles), message)
    counts, optional = sorted({1, len(config.prompt), rows}), ("source_negative_prompt", "source_mask")
    for key in ("negative_prompt", "source_image", "source_prompt", *optional, "rep.init_images"):
        needed, given = " or ".join(map(str, counts)), len(flat[key])
        by = "--rep.init image" if key == "rep.init_images" else f"--algo.name {name}{', an edit,' * (name in EDITORS)}"
        require(given or key in optional or unused(key, flat), f"{by} needs {flag(key)}")
        require(given in (0, *counts), f"{flag(key)}: {given} values are given, {needed} needed")
    batch = config.batch or particles
    require(batch <= particles, f"--batch {batch}: each prompt has only {particles} --particles")
    prompts, weights = config.algo.perp_neg_prompts, config.algo.perp_neg_weights
    message = f"{len(prompts)} --algo.perp-neg-prompts need as many --algo.perp-neg-weights, not {len(weights)}"
    require(len(prompts) == len(weights), message)
    least, most = config.rep.min_width, config.rep.max_width
    require(least <= most, f"--rep.min-width {least:g} is greater than --rep.max-width {most:g}")
    _, least = REPULSION.get(config.algo.repulsion, (None, 1))
    message = f"--algo.repulsion {config.algo.repulsion} needs at least {least} --particles in each step"
    require(batch >= least, message)
    validate_points("--schedule.timestep-points", config.schedule.timestep_points, config.steps, timesteps=True)
    validate_points("--schedule.weight-points", config.schedule.weight_points, config.steps)
    package = importlib.util.find_spec("tensorboard") or not config.log.tensorboard
    require(package, "--log.tensorboard needs TensorBoard: pip install -r requirements-optional.txt")
    for path in (*config.source_image, *config.source_mask, *config.rep.init_images):
        open_image(path)
    there = new and config.out is not None and os.path.lexists(config.out)
    require(not there, f"--out {config.out} already exists; choose another folder")
    return config
