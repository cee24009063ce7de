"""The short help, and what people type where another flag is meant."""

import importlib.metadata
import platform
import textwrap

from algorithms import ALGORITHMS
from errors import InputError
from recording.environment import commit
from representations import REPRESENTATIONS
from schedules.timestep import TIMESTEPS
from schedules.weight import WEIGHTS

COMMON = {
    "--prompt P …": "what to make, a row a prompt",
    "--negative-prompt P": "what guidance leads away from",
    "--particles N": "pictures of each prompt",
    "--algo.name NAME": " ".join(ALGORITHMS),
    "--algo.guidance-scale S": "classifier-free guidance",
    "--source-image F --source-prompt P": "what an edit starts from (dds, pds, flowedit, sdedit)",
    "--rep.kind KIND": " ".join(REPRESENTATIONS),
    "--rep.init START": "noise, constant, image (--rep.init-images F …) or source",
    "--rep.optimizer NAME --rep.lr η": "adam, adamw or sgd, and its learning rate",
    "--schedule.timestep NAME": " ".join(TIMESTEPS),
    "--schedule.weight NAME": " ".join(WEIGHTS),
    "--schedule.t-min T --schedule.t-max T": "the range of timesteps, up to 1 in fractions",
    "--steps N --seed S": "length of the run; the first particle's seed",
    "--prior.path PATH": "a diffusers checkpoint, a folder or hub id",
    "--prior.device D --prior.dtype D": "where it runs, and in which precision",
    "--log.every N": "steps from one recording to the next",
    "--out DIR": "folder of the run",
    "--config FILE": "settings of a YAML file, such as a run's config.yaml",
    "--resume DIR": "continues a run from its last checkpoint",
}
# What other tools call it.
MEANT = {
    "--algo": "--algo.name",
    "--algorithm": "--algo.name",
    "--method": "--algo.name",
    "--cfg": "--algo.guidance-scale",
    "--cfg-scale": "--algo.guidance-scale",
    "--guidance": "--algo.guidance-scale",
    "--guidance-scale": "--algo.guidance-scale",
    "--rep": "--rep.kind",
    "--representation": "--rep.kind",
    "--lr": "--rep.lr",
    "--learning-rate": "--rep.lr",
    "--optimizer": "--rep.optimizer",
    "--init": "--rep.init",
    "--schedule": "--schedule.timestep",
    "--timestep": "--schedule.timestep",
    "--weight": "--schedule.weight",
    "--t-min": "--schedule.t-min",
    "--t-max": "--schedule.t-max",
    "--prior": "--prior.path",
    "--model": "--prior.path",
    "--checkpoint": "--prior.path",
    "--device": "--prior.device",
    "--dtype": "--prior.dtype",
    "--size": "--prior.size",
    "--num-steps": "--steps",
    "--iterations": "--steps",
    "--max-steps": "--steps",
    "--num-particles": "--particles",
    "--batch-size": "--particles",
    "--n": "--particles",
    "--output": "--out",
    "--output-dir": "--out",
    "--image": "--source-image",
    "--mask": "--source-mask",
    "--prompts": "--prompt",
}


def short_help(description: str) -> str:
    """The description and the common flags, on one screen."""
    width = 2 + max(map(len, COMMON))
    lines = []
    for name, text in COMMON.items():
        wrapped = textwrap.wrap(text, 118 - width)
        lines += [f"  {name:<{width}}{wrapped[0]}", *(" " * (width + 2) + line for line in wrapped[1:])]
    more = "--help-all lists every flag with its default, --list what there is to choose, a line each."
    return "\n".join([description.strip(), "", *lines, "", more])


def version() -> str:
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "transformers"))
    return f"sds2d {commit() or ''}, Python {platform.python_version()}, {', '.join(libraries)}"


def refuse_other_names(words: list[str]) -> None:
    """Raises InputError for a flag that is called otherwise here."""
    for word in words:
        if word in MEANT:
            raise InputError(f"{word}: the flag is {MEANT[word]}")
