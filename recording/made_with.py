"""What a run was made with, for config.yaml: versions, the checkpoint's hash, the commit, the device, the pictures it read."""

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "numba", "pillow")
ROOT = Path(__file__).resolve().parent.parent


def made_with(prior, config):
    """{name: text, or {name: text}}"""
    import torch

    return {
        "sds2d": commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(prior.device) if prior.device.type == "cuda" else platform.platform(),
        "threads": torch.get_num_threads(),
        "prior_sha256": prior.sha256,
        "images_sha256": {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
                          for path in dict.fromkeys((*config.source_image, *config.rep.init_images))},
    }  # fmt: skip


def commit():
    """The git commit of this code, "… and changes" if it is not as committed; None outside git."""

    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    if not (ROOT / ".git").exists():
        return None
    try:
        return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def differences(then, now):
    """Lines that say what is not as it was: (those that make it another experiment, those that may change the last bits)."""
    other = []
    if then.get("prior_sha256") != now["prior_sha256"]:
        other.append("the prior's files are not those of that run")
    before = then.get("images_sha256")
    for path, value in now["images_sha256"].items():
        if not isinstance(before, dict) or before.get(path) != value:
            other.append(f"{path} is not the picture of that run")
    small = [f"{name} was {then.get(name)}, is {value}" for name, value in now.items()
             if name not in ("prior_sha256", "images_sha256") and then.get(name) != value]  # fmt: skip
    return other, small
