"""One run of a sweep, and its folder.

    DIR/unfinished/NAME  until it ends;  DIR/runs/NAME  once it is finished;  DIR/failed/NAME  if it failed

Folders are moved atomically, so the location is the run's status, whatever was killed and when.
"""

import json
import os
import shutil
import time
import traceback
from dataclasses import astuple
from pathlib import Path

import sds2d
from config import Config, parse, parse_resume
from errors import InputError, first_line
from priors.checkpoint import Checkpoint, PriorConfig
from priors.prior import Prior, PriorConfig
from recording.environment import load_environment
from recording.folder import write_atomic, write_text
from recording.pictures import to_pillow

FINISHED, FAILED, WAITING = "finished", "failed", "not run"
PLACES = {FINISHED: "runs", FAILED: "failed"}


def status(folder: Path, name: str) -> str:
    return next((status for status, place in PLACES.items() if (folder / place / name).is_dir()), WAITING)


def run_folder(folder: Path, name: str) -> Path | None:
    """The folder of a finished or failed run, or None."""
    return folder / PLACES[status(folder, name)] / name if status(folder, name) in PLACES else None


def run_result(folder: Path, name: str) -> dict:
    """{"seconds": …, "error": None or a line, "warnings": […]} of a run that has ended, or {}."""
    try:
        return json.loads((run_folder(folder, name) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return {}


_loaded = {}


def shared_prior(config: PriorConfig) -> Prior:
    """The prior of this process; the last one is cached, and freed before another is loaded."""
    key = astuple(config)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = Checkpoint(config)
    return _loaded[key]


def moments(config: Config) -> list[int]:
    """The steps of a run that a figure shows besides the end: the recorded ones closest to each third of the run."""
    recorded = range(0, config.steps, config.log.every)
    return [min(recorded, key=lambda step: abs(3 * step - part * config.steps)) for part in range(3)]


def moment_name(step: int) -> str:
    """How the names of the pictures of a moment begin, in the run's folder."""
    return f"moments/step_{step:06d}"


def execute(folder: Path, name: str, arguments: list[str]) -> None:
    """Runs sds2d.py with these arguments in this process → DIR/runs/NAME or, if anything fails, DIR/failed/NAME. A run
    that was stopped is continued."""
    if status(folder, name) == FINISHED:  # A worker may have died after its run finished.
        return
    out, start, result = folder / "unfinished" / name, time.perf_counter(), {"error": None}
    shutil.rmtree(folder / "failed" / name, ignore_errors=True)
    try:
        try:
            config, resume = parse_resume(["--resume", str(out)]), True
        except InputError:
            shutil.rmtree(out, ignore_errors=True)
            config, resume = parse([*arguments, "--out", str(out)]), False

        def watch(step, images):
            if step in moments(config):
                (out / "moments").mkdir(exist_ok=True)
                for particle, image in enumerate(images):
                    write_atomic(out / f"{moment_name(step)}_{particle:02d}.png", to_pillow(image).save)

        sds2d.run(config, shared_prior(config.prior), watch, resume)
        result["warnings"] = load_environment(out)["warnings"]
    except Exception as error:  # A failed run does not end the sweep.
        expected = isinstance(error, InputError | FloatingPointError)
        result["error"] = first_line(error) if expected else f"{type(error).__name__}: {first_line(error)}"
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "error.txt", f"{result['error']}\n\n{traceback.format_exc()}")
    result["seconds"] = round(time.perf_counter() - start, 3)
    write_text(out / "run.json", json.dumps(result))
    place = folder / PLACES[FAILED if result["error"] else FINISHED]
    place.mkdir(exist_ok=True)
    os.replace(out, place / name)
