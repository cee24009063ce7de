"""Pictures for the tables: many short runs on all cores, each kept as soon as it is finished."""

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

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from tqdm import tqdm

import sds2d
from algorithms import ALGORITHMS
from config import Config, flatten, parse
from errors import InputError
from priors.prior import Prior, PriorConfig
from recording.folder import write_atomic
from recording.pictures import to_pillow
from representations import REPRESENTATIONS

ROOT = Path(__file__).resolve().parent.parent
UNRECORDED = ["--log.timesteps", "--eval.clip", "none"]
# Settings that change no picture, or are in a cell's own name.
LEFT_OUT = ("prompt", "seed", "out", "source_image", "source_prompt", "rep.init_images", "prior.path", "command")


@dataclass(frozen=True)
class Cell:
    """One run of sds2d.py: its flags, and the PNG of its final pictures, side by side."""

    file: Path
    arguments: tuple[str, ...]


def row_folder(out: str, name: str, arguments: list[str], prior_sha256: str) -> Path:
    """The folder of a row's cells, DIR/NAME-1a2b3c4d: other settings, another prior or other code are another
    folder."""
    config = parse([*arguments, *UNRECORDED])
    flat, initial = flatten(config), flatten(Config())
    settings = {key: value for key, value in flat.items() if key not in LEFT_OUT and value != initial[key]}
    settings = {key: value for key, value in settings.items() if not key.startswith(("log.", "eval."))}
    classes = (ALGORITHMS[config.algo.name], REPRESENTATIONS[config.rep.kind])
    modules = [*(Path(inspect.getfile(cls)) for cls in classes), ROOT / "schedules/schedule.py"]
    loop = [ast.unparse(ast.parse(inspect.getsource(function))) for function in (sds2d.build, sds2d.distill)]
    text = json.dumps([settings, source_code(modules), loop, prior_sha256], default=str, sort_keys=True)
    return Path(out) / f"{name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def source_code(files: list[Path]) -> dict[str, str]:
    """{file: its code without comments and docstrings} of these files and of all of ours that they import; but not
    of the registries, so that a new method leaves the others' folders as they are."""
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
            if isinstance(body := getattr(node, "body", None), list):
                node.body = [x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))]
        code[name] = ast.unparse(tree)
    return code


def make(cells: list[Cell], workers: int, prior_config: PriorConfig) -> None:
    """Makes the cells that are not there yet, in their order, in so many processes of one thread each (1: in this one).

    What is finished is kept: the same call continues one that was stopped.
    """
    waiting = [cell for cell in cells if not cell.file.is_file()]
    with tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="run", smoothing=0.05) as bar:
        if waiting and workers == 1:
            start_worker(prior_config, None)
            for cell in waiting:
                make_cell(cell)
                bar.update()
        elif waiting:
            # Before the workers import them: threads of OpenMP and numba in several processes wait for each other
            # by spinning.
            os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
            spawn, arguments = multiprocessing.get_context("spawn"), (prior_config, 1)
            pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(waiting)), spawn, start_worker, arguments)
            try:
                for done in concurrent.futures.as_completed([pool.submit(make_cell, cell) for cell in waiting]):
                    done.result()
                    bar.update()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise InputError("a worker died; with too little memory take fewer --workers") from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


_prior = None


def start_worker(prior_config: PriorConfig, threads: int | None) -> None:
    """Loads what all cells of this process share. threads: None in the first process."""
    global _prior
    if threads:
        threading.Thread(target=end_with_parent, daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes; the first one reports it.
        torch.set_num_threads(threads)
    _prior = Prior(prior_config)


def end_with_parent():
    """A worker whose parent was killed would wait for its next cell forever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def make_cell(cell: Cell) -> None:
    """Runs the cell's steps, unrecorded, and writes its pictures; the PNG has its seconds."""
    config = parse([*cell.arguments, *UNRECORDED])
    start = time.perf_counter()
    parts = sds2d.build(config, _prior)
    for step in range(config.steps):
        sds2d.distill(*parts, step)
    with torch.no_grad():
        images = parts[1].images()
    if not images.isfinite().all():
        raise FloatingPointError(f"{cell.file}: pixels are not finite: python sds2d.py {' '.join(cell.arguments)}")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("seconds", f"{time.perf_counter() - start:.3f}")
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    sheet = to_pillow(torch.cat(images.unbind(), -1))
    write_atomic(cell.file, lambda part: sheet.save(part, pnginfo=notes))


def load(cells: list[Cell]) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures of finished cells, (cells, n, 3, H, W) in [0, 1], and the seconds of each, (cells,)."""
    images, seconds = [], []
    for cell in cells:
        with Image.open(cell.file) as file:
            images.append(side_by_side(file))
            seconds.append(float(file.text["seconds"]))
    return torch.stack(images), torch.tensor(seconds)


def side_by_side(file: Image.Image) -> torch.Tensor:
    """A picture of square pictures side by side → (n, 3, H, H) in [0, 1]."""
    pixels = torch.from_numpy(np.array(file.convert("RGB"))).movedim(-1, 0).float() / 255
    return torch.stack(pixels.split(pixels.shape[1], -1))
