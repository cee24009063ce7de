"""What a run was made with, for config.yaml: versions, the checkpoint's hash, the commit, the device, the pictures it read."""

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from errors import InputError

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "numba", "pillow")
ROOT = Path(__file__).resolve().parent.parent


def made_with(prior, config):
    """{name: text, or {name: text}}"""
    return {
        "sds2d": commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(prior.device) if prior.device.type == "cuda" else platform.platform(),
        "threads": torch.get_num_threads(),
        "prior_sha256": prior.sha256,
        "images_sha256": {
            path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
            for path in dict.fromkeys((*config.source_image, *config.rep.init_images))
        },
    }


def commit():
    """The git commit of this code, "… and changes" if it is not as committed; None outside git."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", ROOT, *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    if not (ROOT / ".git").exists():
        return None
    try:
        return git("rev-parse", "HEAD") + (
            " and changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def changes(then, now, resume):
    """Lines that say what is not as it was when the run was made, if it was made before. then, now: made_with() of both.

    Raises InputError for another prior or other pictures, if that run is to be resumed.
    """
    if then is None:
        return []
    images = then.get("images_sha256") if isinstance(then.get("images_sha256"), dict) else {}
    other = ["the prior's files are not those of that run"] if then.get("prior_sha256") != now["prior_sha256"] else []
    changed = [path for path, value in now["images_sha256"].items() if images.get(path) != value]
    other += [f"{path} is not the picture of that run" for path in changed]
    if other and resume:
        raise InputError(f"{other[0]}; --config begins anew with what is there")
    small = [
        f"{name} was {then.get(name)}, is {value}: the last bits may differ"
        for name, value in now.items()
        if name not in ("prior_sha256", "images_sha256") and then.get(name) != value
    ]
    return other + small
