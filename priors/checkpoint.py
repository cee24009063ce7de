"""A checkpoint's files: where they lie, and what of them may be opened."""

import hashlib
import json
import re
from pathlib import Path

from errors import InputError, first_line

EMBEDDED = Path(__file__).resolve().parent / "emoji64"
# Who may define each part of a checkpoint.
PARTS = {
    "tokenizer": ["transformers"],
    "text_encoder": ["transformers"],
    "unet": ["diffusers"],
    "vae": ["diffusers"],
    "scheduler": ["diffusers"],
}
# What is read of it: other variants of the weights, and other formats, stay where they are.
NETWORKS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
FILES = [
    "model_index.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in NETWORKS),
    *(
        f"{part}/{name}{rest}"
        for part, name in NETWORKS.items()
        for rest in (".safetensors", "-*.safetensors", ".safetensors.index.json")
    ),
]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, ~ expanded: every one goes through here. Raises InputError for an unknown ~user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {first_line(error)}") from error


def locate(path: str) -> Path | str:
    """The checkpoint's folder as a Path, or the hub id as it is. Costs nothing: no network, no weights.

    Raises InputError where `path` can be neither.
    """
    for parent in (Path.cwd(), EMBEDDED.parent.parent):  # What ships with sds2d is found from any working directory.
        try:
            folder = parent / user_path(path)
            if (folder / "model_index.json").is_file():
                return folder.resolve()
            exists = folder.exists()
        except OSError as error:
            raise InputError(f"--prior.path {path} can not be read: {first_line(error)}") from error
        if exists:
            raise InputError(f"--prior.path {path} is no diffusers checkpoint: it has no model_index.json")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.startswith("."):
        return path
    raise InputError(f"--prior.path {path}: no such folder, and a hub id has the form owner/name")


def fetch(path):
    """The folder of a checkpoint that locate() has found, from the hub if need be: of that, what FILES names and
    nothing else."""
    if isinstance(path, Path):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # One line is enough where there is no hub.
    try:
        return Path(snapshot_download(path, allow_patterns=FILES))
    except Exception as error:  # Not found, no network, a proxy, a gate: the libraries below have a class for each.
        raise InputError(
            f"--prior.path {path} could not be fetched from the hub; without --prior.path the prior that ships with "
            f"sds2d, {EMBEDDED.name}, is used ({first_line(error)})"
        ) from error


def vet(folder):
    """Raises InputError for a folder that is no StableDiffusionPipeline of networks that diffusers and transformers
    know, with weights in safetensors: sds2d runs no code that comes with a checkpoint, and a pickle is code."""
    index = read_json(folder / "model_index.json")
    if "text_encoder_2" in index or "unet" not in index:
        raise InputError(
            f"--prior.path {folder} holds a {index.get('_class_name')}; a StableDiffusionPipeline is needed"
        )
    for part in ("", *PARTS):
        for file in sorted((folder / part).glob("*.py")):
            refuse_code(folder, file.relative_to(folder))
    for part, libraries in PARTS.items():
        component = index.get(part)
        if not (isinstance(component, list) and component and component[0] in libraries):
            refuse_code(folder, f"{part}: {component} in model_index.json")
        if any("auto_map" in read_json(file) for file in sorted((folder / part).glob("*config.json"))):
            refuse_code(folder, f"auto_map in {part}")
        if (folder / part / "adapter_config.json").exists():
            refuse_code(folder, f"adapter_config.json in {part}")  # It can name weights that lie anywhere.
        if part in NETWORKS:
            vet_weights(folder, part, NETWORKS[part])


def vet_weights(folder, part, name):
    """Requires safetensors under the names that FILES has, in one file or in shards that an index names."""
    index = folder / part / f"{name}.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        shards = list(map(str, shards.values())) if isinstance(shards, dict) else [str(shards)]
        strange = [shard for shard in shards if not re.fullmatch(rf"{name}-\d+-of-\d+\.safetensors", shard)]
        if strange:
            raise InputError(
                f"--prior.path {folder}: {index.name} of its {part} names {strange[0]!r}; "
                f"{name}-00001-of-….safetensors is needed"
            )
    elif not (folder / part / f"{name}.safetensors").is_file():
        others = [file.name for file in (folder / part).glob("*") if file.suffix in PICKLES]
        if others:
            raise InputError(
                f"--prior.path {folder}: its {part} has weights only in {min(others)}, a format that can run code "
                "when it is opened; save it as safetensors"
            )


def refuse_code(folder, where):
    raise InputError(
        f"--prior.path {folder} needs code of its own ({where}); sds2d runs none that comes with a checkpoint"
    )


def digest(folder):
    """SHA-256 of everything that a prior is loaded from, names and contents."""
    total = hashlib.sha256()
    for file in sorted(file for pattern in FILES for file in folder.glob(pattern)):
        with open(file, "rb") as opened:
            total.update(
                f"{file.relative_to(folder).as_posix()} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode()
            )
    return total.hexdigest()


def checkpoint_file(path, name):
    """A small JSON file that a checkpoint folder may carry for sds2d, or {} (README, "Your own checkpoint")."""
    file = path / name if isinstance(path, Path) else None
    return read_json(file) if file and file.is_file() else {}


def read_json(file):
    """The JSON object in a file. Raises InputError, naming the file, for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} can not be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} should hold a JSON object")
    return content
