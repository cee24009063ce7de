"""environment.json: what a run depends on besides its settings, versions, file hashes, the commit and the device."""

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from errors import InputError
from priors.files import read_json
from priors.prior import Prior

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "numba", "pillow")
ROOT = Path(__file__).resolve().parent.parent


def environment(prior: Prior, config) -> dict:
    """{name: text, or {name: text}} for a resolved Config."""
    images = dict.fromkeys((*config.source_image, *config.source_mask, *config.rep.init_images))
    return {
        "sds2d": commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(prior.device) if prior.device.type == "cuda" else platform.platform(),
        "threads": torch.get_num_threads(),
        "prior_sha256": prior.sha256,
        "images_sha256": {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in images},
    }


def commit() -> str | None:
    """The git commit of this code, with "-dirty" if files differ from it; None outside a git repository."""
    # Without the index lock: if a killed run left one behind, it would block the user's own git.
    words = ["git", "--no-optional-locks", "-C", ROOT, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = (ROOT / ".git").exists() and subprocess.run(words, capture_output=True, text=True).stdout.strip()
        return found or None
    except OSError:  # git is not installed.
        return None


def load_environment(folder: Path) -> dict:
    """The environment.json of a run's folder, with its "warnings"; {} if there is none."""
    file = folder / "environment.json"
    return read_json(file) if file.is_file() else {}


def earlier_environment(config, resume: bool) -> dict | None:
    """The environment of the run that is resumed, or of the one whose config.yaml the command names, if there is one.

    Raises InputError if environment.json cannot be read.
    """
    if resume:
        return read_json(Path(config.out) / "environment.json")
    return load_environment(Path(config.config_file).parent) or None if config.config_file else None


def changes(then: dict | None, now: dict, resume: bool) -> list[str]:
    """One line for each difference from the environment `then` of an earlier run, if there was one.

    Raises InputError if a run is resumed with another prior or other input images.
    """
    if then is None:
        return []
    images = then.get("images_sha256") or {}
    other = [] if then.get("prior_sha256") == now["prior_sha256"] else ["the prior's files differ from the old run's"]
    changed = [path for path, sha in now["images_sha256"].items() if images.get(path) != sha]
    other += [f"{path} differs from the old run's" for path in changed]
    if other and resume:
        raise InputError(f"{other[0]}; start a new run with --config")
    names = [name for name in now if not name.endswith("_sha256") and then.get(name) != now[name]]
    return other + [f"{name} was {then.get(name)}, is {now[name]}: the last bits may differ" for name in names]
