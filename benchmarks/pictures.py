"""Pictures for the tables: many short runs on all cores, each saved as soon as it is finished."""

import ast
import copy
import functools
import hashlib
import inspect
import itertools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from tqdm import tqdm

import sds2d
from algorithms import ALGORITHMS
from config import Config, flag, flatten, parse, set_values, settings_in
from errors import require
from recording.folder import write_atomic
from recording.pictures import to_pillow
from recording.processes import in_processes, require_no_gpu_number
from representations import REPRESENTATIONS
from sweep import shared_prior

ROOT = Path(__file__).resolve().parent.parent
# Settings that change no picture.
NO_PICTURE = ("log.", "eval.", "out", "command", "config_file", "filled", "prior.path", "paper", "quiet")


class Cell(NamedTuple):
    """One run of sds2d.py: its resolved Config, and the PNG of its final pictures, side by side."""

    file: Path
    config: Config


def cells(folder: Path, given: list[str], row: str, runs: list[dict[str, Any]], prior_sha256: str) -> list[Cell]:
    """The cells of a row, "METHOD KIND", one per run: {setting: value or tuple} in addition to the given flags.

    A cell's name has a hash of everything that its picture depends on, so other settings, source pictures, code or
    weights make a new cell.
    """
    require(len(row.split()) == 2, f"row {row!r}: a method and a representation are needed, as 'sds latent'")
    name, kind = row.split()
    settings = {"algo.name": name, "rep.kind": kind} | runs[0]
    taken = sorted(settings.keys() & settings_in(given))
    require(not taken, f"{', '.join(map(flag, taken))}: the table's rows set it themselves")
    flags = [(flag(k), *map(str, v if isinstance(v, tuple) else (v,))) for k, v in settings.items()]
    base, initial, made = parse([*given, *itertools.chain(*flags)]), flatten(Config()), []
    for index, run in enumerate(runs):
        config = set_values(copy.deepcopy(base), run, row)
        flat = {k: v for k, v in flatten(config).items() if v != initial[k] and not k.startswith(NO_PICTURE)}
        for key in flat.keys() & {"source_image", "source_mask", "rep.init_images"}:
            flat[key] = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in flat[key]]
        text = json.dumps([flat, row_code(name, kind), prior_sha256], sort_keys=True)
        file = f"{index:02d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.png"
        made.append(Cell(folder / row.replace(" ", "-") / file, config))
    return made


@functools.cache
def row_code(name: str, kind: str) -> dict[str, str]:
    """source_code() of a method, a representation, the schedules and the step that connects them."""
    files = [Path(inspect.getfile(cls)) for cls in (ALGORITHMS[name], REPRESENTATIONS[kind])]
    loop = [bare(ast.parse(inspect.getsource(function))) for function in (sds2d.build, sds2d.distill)]
    return source_code([*files, ROOT / "schedules/schedule.py"]) | {"loop": "\n".join(loop)}


def source_code(files: list[Path]) -> dict[str, str]:
    """{file: its code without comments and docstrings} for these files and all files of this project that they import,
    except the registries, so that a new method leaves the cells of the others as they are."""
    code, files = {}, list(files)
    while files:
        file = files.pop()
        name = file.relative_to(ROOT).as_posix()
        if name in code or not file.is_file():
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = ROOT / node.module.replace(".", "/")
                files += [module.with_suffix(".py"), *(module / f"{alias.name}.py" for alias in node.names)]
        code[name] = bare(tree)
    return code


def bare(tree: ast.Module) -> str:
    """Code without comments and docstrings."""
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))]
    return ast.unparse(tree)


def make(cells: list[Cell], workers: int) -> None:
    """Makes the missing cells, in order, in `workers` processes of one thread each (1: in this process).

    Finished cells are kept: the same call continues a stopped one.
    """
    missing = [(cell,) for cell in cells if not cell.file.is_file()]
    require_no_gpu_number((cell.config.prior.device for cell in cells), workers)
    ended = in_processes(make_cell, missing, workers, 1)  # One cell, too, in a process with one thread.
    for _ in tqdm(ended, total=len(missing), unit="run", smoothing=0.05, disable=not missing):
        pass


def make_cell(cell: Cell) -> None:
    """Runs the cell's steps without recording, and writes its pictures; the PNG also has the seconds."""
    prior, start = shared_prior(cell.config.prior), time.perf_counter()
    parts = sds2d.build(cell.config, prior)
    for step in range(cell.config.steps):
        sds2d.distill(parts, step)
    with torch.no_grad():
        images = parts.representation.images()
    if not images.isfinite().all():
        raise FloatingPointError(f"{cell.file}: pixels are not finite")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("seconds", f"{time.perf_counter() - start:.3f}")
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    sheet = to_pillow(torch.cat(images.unbind(), -1))
    write_atomic(cell.file, lambda part: sheet.save(part, pnginfo=notes))


def load(cells: list[Cell]) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures of finished cells, (cells, n, 3, H, W) in [0, 1], and the seconds that each took, (cells,)."""
    images, seconds = [], []
    for cell in cells:
        with Image.open(cell.file) as file:
            images.append(side_by_side(file))
            seconds.append(float(file.text["seconds"]))
    return torch.stack(images), torch.tensor(seconds).double()


def side_by_side(file: Image.Image) -> torch.Tensor:
    """A sheet of square pictures side by side → (n, 3, H, H) in [0, 1]."""
    pixels = torch.from_numpy(np.array(file.convert("RGB"))).movedim(-1, 0).float() / 255
    return torch.stack(pixels.split(pixels.shape[1], -1))
