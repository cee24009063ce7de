"""A checkpoint's files: finding them, checking which may be opened, and opening them."""

import hashlib
import importlib
import json
import re
from pathlib import Path

import torch

from errors import InputError, first_line, require
from priors.families import FAMILIES, Family

EMBEDDED = Path(__file__).resolve().parent / "emoji64"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def file_patterns(variant: str | None = None) -> list[str]:
    """Patterns of the files that are read from a checkpoint; other formats and variants of the weights are ignored."""
    networks, names = ("text_encoder*", "unet", "transformer", "vae"), ("config.json", *weight_patterns(variant))
    others = ("model_index.json", "tokenizer*/*.json", "tokenizer*/*.txt", "tokenizer*/*.model", "scheduler/*.json")
    return [*others, *(f"{part}/{name}" for part in networks for name in names)]


def weight_patterns(variant: str | None = None) -> list[str]:
    """Patterns of the names of a network's files of weights, whole or sharded."""
    v = f".{variant}" if variant else ""
    ends = f"{v}.safetensors", f"{v}-*-of-*.safetensors", f"-*-of-*{v}.safetensors", f".safetensors.index{v}.json"
    return [name + end for name in ("model", "diffusion_pytorch_model") for end in ends]


def user_path(path: str | Path) -> Path:
    """A user's path with ~ expanded; use it for all of them. Raises InputError for an unknown ~user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {first_line(error)}") from error


def locate(path: str) -> Path | str:
    """The checkpoint's folder as a Path, or the hub id as it is. Cheap: uses no network and reads no weights.

    Raises InputError if `path` can be neither.
    """
    for parent in (Path.cwd(), EMBEDDED.parent.parent):  # Find what ships with sds2d from any working directory.
        try:
            folder = parent / user_path(path)
            if (folder / "model_index.json").is_file():
                return folder.resolve()
            exists = folder.exists()
        except OSError as error:
            raise InputError(f"--prior.path {path} cannot be read: {first_line(error)}") from error
        if exists and folder.suffix in (".safetensors", ".ckpt"):
            code = f"StableDiffusionPipeline.from_single_file({str(path)!r}).save_pretrained('folder')"
            raise InputError(
                f"--prior.path {path} is a single file; `from diffusers import *; {code}` makes it a folder"
            )
        if exists:
            raise InputError(f"--prior.path {path} is no diffusers checkpoint: it has no model_index.json")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.startswith("."):
        return path
    raise InputError(f"--prior.path {path}: no such folder, and a hub id has the form owner/name")


def fetch(path: Path | str, variant: str | None = None) -> Path:
    """The folder of a checkpoint from locate(), downloaded from the hub if needed: only the files of
    file_patterns()."""
    if isinstance(path, Path):
        return path
    advice = f"; without --prior.path the prior that ships with sds2d, {EMBEDDED.name}, is used"
    return download(path, file_patterns(variant), "--prior.path", advice)


def download(name: str, patterns: list[str], flag: str, advice: str = "") -> Path:
    """The folder of a repository on the hub, with the files that match a pattern. Raises InputError if it cannot be
    fetched, which names the flag and gives the advice."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # One line is enough if there is no hub.
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # Not found, no network, a proxy, a gate: the libraries have a class for each.
        cause = first_line(error)
        raise InputError(f"{flag} {name} could not be fetched from the hub{advice} ({cause})") from error


def read_family(folder: Path) -> tuple[str, Family]:
    """The class of a checkpoint's pipeline, and its family. Raises InputError for one that is not known."""
    name = read_json(folder / "model_index.json").get("_class_name")
    if name not in FAMILIES:
        known = ", ".join(f"{name} ({family.name})" for name, family in FAMILIES.items())
        raise InputError(f"--prior.path {folder} holds a {name}; known are {known}")
    return name, FAMILIES[name]


def load_part(folder: Path, family: Family, dtype: torch.dtype, variant: str | None, part: str):
    """A network, tokenizer or scheduler of a checkpoint; None if an optional one is missing.

    Raises InputError unless its class is known for this part and all its weights come from safetensors: a pickle is
    code, and libraries leave missing weights uninitialised.
    """
    entry = read_json(folder / "model_index.json").get(part)
    if part in family.optional and (entry is None or entry == [None, None]):
        return None
    place = f"--prior.path {folder}: its {part}"
    library = "transformers" if part.startswith(("tokenizer", "text_encoder")) else "diffusers"
    if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == library and entry[1] in family.parts[part]):
        named = ".".join(map(str, entry)) if isinstance(entry, list) else entry
        known = " or ".join(f"{library}.{cls}" for cls in family.parts[part])
        raise InputError(f"{place} is a {named} in model_index.json; {known} is needed")
    if part.startswith("tokenizer"):
        require(any(list((folder / part).glob(f"*.{end}")) for end in ("json", "model")), f"{place} has no files")
    for file in (folder / part).glob("*config.json"):
        require("auto_map" not in read_json(file), f"{place} needs code of its own; sds2d runs none of a checkpoint")
    adapter = folder / part / "adapter_config.json"  # It can name weights anywhere.
    require(not adapter.exists(), f"{place} has an {adapter.name}; fuse and save it")
    cls = getattr(importlib.import_module(library), entry[1])
    return load_class(cls, folder, part, place, dtype, variant)


def load_class(cls: type, folder: Path, part: str, place: str, dtype: torch.dtype, variant: str | None = None):
    """cls.from_pretrained for a part. place: the start of error messages."""
    options, network = {}, issubclass(cls, torch.nn.Module)
    if network:
        require_weights(folder / part, place, variant)
        options = {"use_safetensors": True, "output_loading_info": True, "variant": variant}
        # low_cpu_mem_usage=True needs accelerate.
        of_diffusers = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
        options |= of_diffusers if cls.__module__.startswith("diffusers") else {"dtype": dtype}
    try:
        loaded = cls.from_pretrained(folder, subfolder=part, **options)
    except Exception as error:  # whatever a library raises, the user needs the part and the cause
        raise InputError(f"{place} could not be loaded ({first_line(error)})") from error
    if not network:
        return loaded
    model, info = loaded
    for what, keys in (("lacks", info["missing_keys"]), ("has another shape of", info["mismatched_keys"])):
        for key in sorted(map(str, keys))[:1]:
            raise InputError(f"{place}: its file {what} {key}, and {len(keys) - 1} more; save the whole model again")
    if cls.__module__.startswith("diffusers"):
        model = model.to(dtype)  # diffusers keeps a file's own dtype if its first tensor has the wanted one.
    return model.eval().requires_grad_(False)


def require_weights(folder: Path, place: str, variant: str | None) -> None:
    """Raises InputError if the weights are not there as safetensors."""
    found = [file for pattern in weight_patterns(variant) for file in folder.glob(pattern)]
    beside = [file.name for file in found if file.suffix == ".safetensors"]
    for file in found:
        if file.suffix == ".json":
            shards = read_json(file).get("weight_map")
            shards = shards.values() if isinstance(shards, dict) else [shards]
            strange = [shard for shard in shards if shard not in beside]  # which would not be hashed, nor fetched
            example = "a file such as model-00001-of-….safetensors beside it"
            require(not strange, f"{place}: {file.name} names {strange[:1]}; {example} is needed")
        else:
            with open(file, "rb") as opened:
                pointer = opened.read(40).startswith(b"version https://git-lfs")
            require(not pointer, f"{place}: {file.name} is a Git-LFS pointer; `git lfs pull` fetches the weights")
    if not found:
        others = sorted(file.name for file in folder.glob("*"))
        named = [name for name in others if name.count(".") > 1 and name.endswith(".safetensors")]
        if named:
            known = named[0].split(".")[1].split("-")[0]
            raise InputError(f"{place} has only weights of a variant; --prior.variant {known} is needed")
        pickles = [name for name in others if name.endswith(PICKLES)]
        require(not variant, f"{place} has no weights of --prior.variant {variant}, as model.{variant}.safetensors is")
        cause = f"only {pickles[0]}, a format that can run code when it is opened" if pickles else "none"
        raise InputError(f"{place} needs weights as safetensors, and has {cause}")


def digest(folder: Path, variant: str | None = None) -> str:
    """SHA-256 of the names and contents of all files that a prior is loaded from."""
    total = hashlib.sha256()
    for file in sorted(file for pattern in file_patterns(variant) for file in folder.glob(pattern)):
        with open(file, "rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()


def checkpoint_file(path: Path | str, name: str) -> dict:
    """A small JSON file for sds2d in a checkpoint's folder, or {} (docs/DEVELOPMENT.md, "A checkpoint of your own")."""
    file = path / name if isinstance(path, Path) else None
    return read_json(file) if file and file.is_file() else {}


def read_json(file: Path) -> dict:
    """The JSON object in a file. Raises InputError, which names the file, for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} should hold a JSON object")
    return content
