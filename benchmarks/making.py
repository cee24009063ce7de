"""Pictures for the tables: many short runs, side by side on all cores, each kept as soon as it is made."""

import ast
import concurrent.futures
import hashlib
import inspect
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin
from tqdm import tqdm

import sds2d
from algorithms import ALGORITHMS
from errors import InputError
from priors.prior import Prior
from recording.files import write
from recording.pictures import to_pillow
from representations import REPRESENTATIONS
from settings import parse
from settings.config import Config
from settings.flags import flatten

NOWHERE = ["--log.timesteps", "--eval.clip", "none"]
# What changes no picture, or is in a cell's own name.
ASIDE = ("prompt", "seed", "out", "source_image", "source_prompt", "rep.init_images", "prior.path")


@dataclass(frozen=True)
class Cell:
    """One run of sds2d.py: its flags, and the PNG that will hold its final pictures, side by side."""

    file: Path
    arguments: tuple[str, ...]


def row_folder(out, name, arguments, prior_sha256):
    """Where a row's cells lie, DIR/NAME-1a2b3c4d. Another default, another prior, other code of the method or the representation is
    another folder: nothing is taken for what it is not."""
    config = parse([*arguments, *NOWHERE])
    default = flatten(Config())
    settings = {
        key: value
        for key, value in flatten(config).items()
        if key not in ASIDE and not key.startswith(("log.", "eval.")) and value != default[key]
    }
    code = [essence(cls) for cls in (ALGORITHMS[config.algo.name], REPRESENTATIONS[config.rep.kind])]
    text = json.dumps([settings, code, prior_sha256], default=str, sort_keys=True)
    return Path(out) / f"{name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def essence(cls):
    """The code of the file that a class is in, without comments and docstrings."""
    tree = ast.parse(Path(inspect.getfile(cls)).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [
                line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return ast.unparse(tree)


def make(cells, workers, prior_config):
    """Makes the cells that are not there yet, in their order, on so many processes of a thread each (1: in this one).

    What is made is kept: the same call goes on where one was stopped.
    """
    waiting = [cell for cell in cells if not cell.file.is_file()]
    bar = tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="run", smoothing=0.05, dynamic_ncols=True)
    with bar:
        if waiting and workers == 1:
            begin(prior_config, None)
            for cell in waiting:
                run(cell)
                bar.update()
        elif waiting:
            # Said before a worker loads them: OpenMP's and numba's threads of several processes wait for each other by spinning.
            os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
            pool = concurrent.futures.ProcessPoolExecutor(
                min(workers, len(waiting)), multiprocessing.get_context("spawn"), begin, (prior_config, 1)
            )
            try:
                for done in concurrent.futures.as_completed([pool.submit(run, cell) for cell in waiting]):
                    done.result()
                    bar.update()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise InputError(
                    "a worker ended before its run did; with too little memory take fewer --workers"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


_prior = None


def begin(prior_config, threads):
    """Loads what all cells of this process share."""
    global _prior
    if threads:
        threading.Thread(target=follow, daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches them all; the first process says what happened.
        torch.set_num_threads(threads)
    _prior = Prior(prior_config)


def follow():
    """A worker whose parent was killed would wait for its next cell for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def run(cell):
    """Runs the cell's steps, unwatched, and writes its pictures; the PNG knows its seconds."""
    config = parse([*cell.arguments, *NOWHERE])
    start = time.perf_counter()
    parts = sds2d.build(config, _prior)
    for step in range(config.steps):
        sds2d.distill(*parts, step)
    with torch.no_grad():
        images = parts[1].images()
    if not images.isfinite().all():
        raise FloatingPointError(f"{cell.file}: not all pixels are finite: python sds2d.py {' '.join(cell.arguments)}")
    seconds = time.perf_counter() - start
    notes = PngImagePlugin.PngInfo()
    notes.add_text("seconds", f"{seconds:.3f}")
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    sheet = to_pillow(torch.cat(images.unbind(), -1))
    write(cell.file, lambda beside: sheet.save(beside, pnginfo=notes))


def load(cells):
    """The pictures of finished cells, (cells, n, 3, H, W) in [0, 1], and the seconds of each, (cells,)."""
    images, seconds = [], []
    for cell in cells:
        with Image.open(cell.file) as file:
            images.append(side_by_side(file))
            seconds.append(float(file.text["seconds"]))
    return torch.stack(images), torch.tensor(seconds)


def side_by_side(file):
    """A Pillow image of square pictures side by side → (n, 3, H, H) in [0, 1]."""
    import numpy as np

    pixels = torch.from_numpy(np.array(file.convert("RGB"))).movedim(-1, 0).float() / 255
    return torch.stack(pixels.split(pixels.shape[1], -1))
