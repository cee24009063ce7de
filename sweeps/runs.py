"""One run of a sweep, and its folder.

    DIR/unfinished/NAME  until it ends;  DIR/runs/NAME  once it is finished;  DIR/failed/NAME  if it failed

Folders are moved atomically, so the location is the run's status, whatever was killed and when.
"""

import contextlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import sds2d
from config.command_line import parse, parse_resume
from config.settings import Config
from errors import InputError, first_line
from priors.prior import Prior, PriorConfig
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
        _loaded[key] = Prior(config)
    return _loaded[key]


def moments(config: Config) -> list[int]:
    """The steps of a run that a figure shows besides the end: the last recorded one up to each fifth of the run."""
    return [config.steps * part // 5 // config.log.every * config.log.every for part in range(5)]


def moment_name(step: int) -> str:
    """How the names of the pictures of a moment begin, in the run's folder."""
    return f"moments/step_{step:06d}"


def execute(folder: Path, name: str, arguments: list[str]) -> None:
    """Runs sds2d.py with these arguments in this process → DIR/runs/NAME or, if anything fails, DIR/failed/NAME."""
    if status(folder, name) == FINISHED:  # A worker may have died after its run finished.
        return
    out, start = folder / "unfinished" / name, time.perf_counter()
    shutil.rmtree(folder / "failed" / name, ignore_errors=True)
    try:
        config = open_run(out)
        resume, config = config is not None, config or parse([*arguments, "--out", str(out)])

        def watch(step, images):
            if step in moments(config):
                (out / "moments").mkdir(exist_ok=True)
                for particle, image in enumerate(images):
                    write_atomic(out / f"{moment_name(step)}_{particle:02d}.png", to_pillow(image).save)

        sds2d.run(config, shared_prior(config.prior), watch, resume)
    except Exception as error:  # A failed run does not end the sweep.
        expected = isinstance(error, InputError | FloatingPointError)
        reason = first_line(error) if expected else f"{type(error).__name__}: {first_line(error)}"
        fail(folder, name, reason, time.perf_counter() - start, traceback.format_exc())
    else:
        warnings = config.environment["warnings"]
        settle(out, folder / "runs" / name, time.perf_counter() - start, warnings=warnings)


def open_run(out: Path) -> Config | None:
    """The Config of a run that was stopped in this folder; if there is none, deletes the folder and returns None."""
    with contextlib.suppress(InputError):
        return parse_resume(["--resume", str(out)])
    shutil.rmtree(out, ignore_errors=True)
    return None


def fail(folder: Path, name: str, reason: str, seconds: float | None = None, details: str = "") -> None:
    """Marks a run as failed; its files are kept."""
    out = folder / "unfinished" / name
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "error.txt", f"{reason}\n\n{details}")
    settle(out, folder / "failed" / name, seconds, reason)


def settle(
    out: Path, target: Path, seconds: float | None, error: str | None = None, warnings: Sequence[str] = ()
) -> None:
    result = {"seconds": seconds and round(seconds, 3), "error": error, "warnings": list(warnings)}
    write_text(out / "run.json", json.dumps(result))
    target.parent.mkdir(exist_ok=True)
    os.replace(out, target)
