"""What is refused before anything is loaded or written: settings that do not go together."""

import importlib.util
import os
from dataclasses import fields
from typing import Any

from algorithms import ALGORITHMS
from algorithms.repulsion import REPULSION
from config.settings import Config, check_values, flag, flatten
from errors import InputError
from representations import REPRESENTATIONS
from representations.start import open_image
from schedules.curves import validate_points
from schedules.schedule import USED_BY

EDITORS = [name for name, cls in ALGORITHMS.items() if cls.edits]
SAMPLERS = [name for name, cls in ALGORITHMS.items() if cls.is_sampler]
GUIDED = [name for name, cls in ALGORITHMS.items() if "algo.guidance_scale" in cls.defaults]
GUIDANCE = ("guidance_rescale", "perp_neg_prompts", "perp_neg_weights")  # of ε̂^s
NOT_OF_SAMPLERS = ("batch", "algo.updates_per_step", "algo.repulsion", "rep.lr_schedule", "rep.lr_warm_up")
EDIT_STEPS = ("algo.source_guidance_scale", "source_negative_prompt", "source_mask")  # of an edit's steps
PHI_TRAINING = ("lora_lr", "lora_updates", "lora_warm_up", "lora_particles", "gamma")  # of VSD
INVERSION = ("inversion_guidance_scale", "inversion_steps", "eta")  # of SDI
# Settings, or groups of them, that only some choices use: (setting, {the setting that chooses: its values}).
CHOICES = [
    ("algo.guidance_scale", {"algo.name": GUIDED}),
    *((f"algo.{name}", {"algo.name": [name for name in GUIDED if name != "nfsd"]}) for name in GUIDANCE),
    *((name, {"algo.name": [name for name in ALGORITHMS if name not in SAMPLERS]}) for name in NOT_OF_SAMPLERS),
    ("algo.repulsion_scale", {"algo.repulsion": list(REPULSION)}),
    *((name, {"algo.name": [name for name in EDITORS if name not in SAMPLERS]}) for name in EDIT_STEPS),
    *((name, {"algo.name": EDITORS}) for name in ("source_image", "source_prompt")),
    ("rep.init_std", {"rep.init": ["noise"]}),
    ("rep.init_color", {"rep.init": ["constant"]}),
    ("rep.init_images", {"rep.init": ["image"]}),
    ("rep.fit_steps", {"rep.init": ["image", "source"]}),
    *((name, {"rep.optimizer": ["adam", "adamw"]}) for name in ("rep.betas", "rep.eps")),
    *((f"algo.{name}", {"algo.name": [name]}) for name in ALGORITHMS),
    *((f"algo.vsd.{name}", {"algo.vsd.phi": ["lora"]}) for name in ("lora_layers", "lora_rank")),
    *((f"algo.vsd.{name}", {"algo.vsd.phi": ["lora", "full"]}) for name in PHI_TRAINING),
    *((f"algo.sdi.{name}", {"algo.sdi.noise": ["inverted"]}) for name in INVERSION),
    *((f"schedule.{name}", {f"schedule.{key}": users[key] for key in users}) for name, users in USED_BY.items()),
]
OWN = {kind: [entry.name for entry in fields(cls.Settings)] for kind, cls in REPRESENTATIONS.items() if cls.Settings}
for setting in dict.fromkeys(name for names in OWN.values() for name in names):
    CHOICES.append((f"rep.{setting}", {"rep.kind": [kind for kind in OWN if setting in OWN[kind]]}))
HASH = ("hash_levels", "hash_size", "hash_features", "table_lr")
CHOICES += [(f"rep.{name}", {"rep.encoding": ["hashgrid"]}) for name in HASH]
CHOICES += [("rep.frequency", {"rep.encoding": ["siren", "fourier"]})]
CHOICES += [(f"rep.{name}", {"rep.closed": [False]}) for name in ("min_width", "max_width", "width_lr")]


def unused(name: str, flat: dict[str, Any]) -> str | None:
    """Why the choices in `flat` do not use a setting, or None."""
    for setting, choices in CHOICES:
        if f"{name}.".startswith(f"{setting}.") and all(flat[key] not in choices[key] for key in choices):
            users = " or ".join(f"{flag(key)} {', '.join(map(str, choices[key]))}" for key in choices)
            return f"{flag(name)} is for {users}, not {', '.join(str(flat[key]) for key in choices)}"
    return None


def validate(config: Config, new: bool = True) -> Config:
    """Raises InputError for what can be known to be wrong before anything is loaded or written.

    new: whether the run's folder must not exist yet.
    """

    def require(good, message):
        if not good:
            raise InputError(message)

    check_values(config)
    flat, initial, name = flatten(config), flatten(Config()), config.algo.name
    algorithm, rows = ALGORITHMS[name], len(config.prompt) * config.particles
    for key, needed in algorithm.required.items():
        require(flat[key] == needed, f"{flag(key)} {flat[key]}: {name} needs {needed}")
    for key, value in flat.items():
        reason = unused(key, flat)
        require(value == initial[key] or not reason, reason)
        of_schedule = key.removeprefix("schedule.") in USED_BY and key != "schedule.t_max"  # the prior has a default
        if value in (None, ()) and not reason and of_schedule:
            chooser = f"schedule.{next(iter(USED_BY[key.removeprefix('schedule.')]))}"
            raise InputError(f"{flag(chooser)} {flat[chooser]} needs {flag(key)}")
    for key, value, names in (("schedule.timestep", "ddim", SAMPLERS), ("rep.init", "source", EDITORS)):
        if flat[key] == value and name not in names:
            raise InputError(f"{flag(key)} {value} is for --algo.name {', '.join(names)}, not {name}")
    require(config.prompt, "--prompt needs at least one prompt; an empty one is ''")
    highest = max(config.seed + rows - 1, *config.seeds, 0)
    require(highest < 2**32, f"--seed {highest}: a number below 2^32 is needed")  # Larger seeds repeat.
    require(not (config.seeds and config.seed), "--seeds is in place of --seed; one of them is needed")
    count = f"{len(config.seeds)} --seeds: {config.particles} are needed, one for each of a prompt's --particles"
    require(not config.seeds or len(config.seeds) == config.particles, count)
    needed = ["negative_prompt"] + (["source_image", "source_prompt"] if algorithm.edits else [])
    needed += ["rep.init_images"] if flat["rep.init"] == "image" else []
    needed += [key for key in ("source_negative_prompt", "source_mask") if flat[key]]
    for key in needed:
        counts = sorted({1, len(config.prompt), rows})
        message = f"{name} from {flat['rep.init']} needs {flag(key)}, {' or '.join(map(str, counts))} of them"
        require(len(flat[key]) in counts, f"{message}; {len(flat[key])} are given")
    batch = config.batch or config.particles
    require(batch <= config.particles, f"--batch {batch}: each prompt has {config.particles} --particles")
    prompts, weights = config.algo.perp_neg_prompts, config.algo.perp_neg_weights
    message = f"{len(prompts)} --algo.perp-neg-prompts need as many --algo.perp-neg-weights, below 0"
    require(len(prompts) == len(weights) and all(weight < 0 for weight in weights), message)
    least, most = config.rep.min_width, config.rep.max_width
    require(least <= most, f"--rep.min-width {least:g} is more than --rep.max-width {most:g}")
    if config.algo.repulsion != "none":
        _, least = REPULSION[config.algo.repulsion]
        message = f"--algo.repulsion {config.algo.repulsion} needs {least} --particles or more in each step"
        require(batch >= least, message)
    validate_points("--schedule.timestep-points", config.schedule.timestep_points, config.steps, timesteps=True)
    validate_points("--schedule.weight-points", config.schedule.weight_points, config.steps)
    package = importlib.util.find_spec("tensorboard") or not config.log.tensorboard
    require(package, "--log.tensorboard needs TensorBoard: pip install -r requirements-optional.txt")
    for path in (*config.source_image, *config.source_mask, *config.rep.init_images):
        open_image(path)
    if new and config.out is not None and os.path.lexists(config.out):
        raise InputError(f"--out {config.out} exists; name another folder")
    return config
