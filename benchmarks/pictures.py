"""Pictures for the tables: many short runs on all cores, each saved as soon as it is finished."""

import copy
import hashlib
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
from config import Config, flag, flatten, parse, set_values, settings_in
from errors import require
from recording.folder import write_atomic
from recording.pictures import to_pillow
from recording.processes import in_processes, require_no_gpu_number
from recording.scores import with_background
from sweep import shared_prior

PARTICLES = 4
# Settings that change no picture. The prior's files are in a cell's name by their hash, wherever they are.
NO_PICTURE = ("log.", "eval.", "out", "command", "config_file", "filled", "prior.path", "paper", "quiet")
IMAGE_FILES = ("source_image", "source_mask", "rep.init_images")


class Cell(NamedTuple):
    """One run of sds2d.py: its resolved Config, and the PNG of its final pictures, side by side."""

    file: Path
    config: Config


def cells(folder: Path, given: list[str], row: str, runs: list[dict[str, Any]], prior_sha256: str) -> list[Cell]:
    """The cells of a row, "METHOD KIND", one per run: {setting: value or tuple} in addition to the given flags.

    A finished cell is used again while its file's name stays the same: while settings, input images and prior do.
    A change of the code does not rename it.
    """
    method, kind = row.split()
    settings = {"algo.name": method, "rep.kind": kind} | runs[0]
    taken = sorted(settings.keys() & settings_in(given))
    require(not taken, f"{', '.join(map(flag, taken))}: the table's rows set it themselves")
    flags = list(given)
    for name, value in settings.items():
        flags += [flag(name), *map(str, value if isinstance(value, tuple) else (value,))]
    base, made = parse(flags), []
    for index, run in enumerate(runs):
        config = set_values(copy.deepcopy(base), run, row)
        name = f"{index:02d}-{picture_hash(config, prior_sha256)}.png"
        made.append(Cell(folder / row.replace(" ", "-") / name, config))
    return made


def picture_hash(config: Config, prior_sha256: str) -> str:
    """A hash of the settings that a run's pictures depend on, its input images and its prior. Settings at the default
    of Config are left out, so that a new setting leaves the hashes of runs without it."""
    initial = flatten(Config())
    changed = {name: value for name, value in flatten(config).items() if value != initial[name]}
    settings = {name: value for name, value in changed.items() if not name.startswith(NO_PICTURE)}
    for name in settings.keys() & set(IMAGE_FILES):
        settings[name] = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in settings[name]]
    text = json.dumps([settings, prior_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prompt_runs(prompts: list[tuple[str, str]], first_seed: int = 0) -> list[dict[str, Any]]:
    """One run of four particles for each (phrase, background); no two particles have the same seed."""
    return [
        {"prompt": (with_background(*prompt),), "seed": first_seed + PARTICLES * index, "particles": PARTICLES}
        for index, prompt in enumerate(prompts)
    ]


def make_pictures(rows: list[list[Cell]], workers: int) -> None:
    """Makes the missing cells of these rows in `workers` processes of one thread each (1: in this process).

    Finished cells are kept: the same call continues a stopped one. The first cell of each row comes before the second
    of any, so that all rows of a stopped table are equally far and were timed alike.
    """
    in_turn = [cell for turn in itertools.zip_longest(*rows) for cell in turn if cell]
    missing = [(cell,) for cell in in_turn if not cell.file.is_file()]
    require_no_gpu_number((cell.config.prior.device for cell in in_turn), workers)
    ended = in_processes(make_cell, missing, workers, threads=1)
    for _ in tqdm(ended, total=len(missing), unit="run", smoothing=0.05, disable=not missing):
        pass


def make_cell(cell: Cell) -> None:
    """Runs the cell's steps without recording, and writes its pictures; the PNG also has the seconds."""
    prior = shared_prior(cell.config.prior)
    start = time.perf_counter()
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


def load_pictures(cells: list[Cell]) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures of finished cells, (cells, n, 3, H, W) in [0, 1], and the seconds that each took, (cells,)."""
    images, seconds = [], []
    for cell in cells:
        with Image.open(cell.file) as file:
            images += read_sheet(file)
            seconds.append(float(file.text["seconds"]))
    return torch.stack(images), torch.tensor(seconds).double()


def read_sheet(sheet: Image.Image, rows: int = 1) -> torch.Tensor:
    """A sheet of rows of n square pictures → (rows, n, 3, H, H) in [0, 1]."""
    pixels = torch.from_numpy(np.array(sheet.convert("RGB")))  # (rows H, n H, 3)
    side = len(pixels) // rows
    return pixels.view(rows, side, -1, side, 3).permute(0, 2, 4, 1, 3).float() / 255
