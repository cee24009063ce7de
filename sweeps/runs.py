"""One run of a sweep, and its folder.

    DIR/unfinished/NAME  while it goes on;  DIR/runs/NAME  once it is finished;  DIR/failed/NAME  where it failed

A folder moves as a whole, so where it lies says how the run stands, whatever was killed and when.
"""

import contextlib
import json
import os
import shutil
import time
import traceback

import sds2d
from errors import InputError, first_line
from priors.prior import Prior
from recording.files import write, write_text
from settings import reopen

FINISHED, FAILED, WAITING = "finished", "failed", "not run"


def status(folder, name):
    return next(
        (word for word, place in ((FINISHED, "runs"), (FAILED, "failed")) if (folder / place / name).is_dir()), WAITING
    )


def place(folder, name):
    """The folder of a finished or failed run, or None."""
    return {FINISHED: folder / "runs" / name, FAILED: folder / "failed" / name}.get(status(folder, name))


def report(folder, name):
    """What the run has left to say: {"seconds": …, "error": None or a line}, or {}."""
    try:
        return json.loads((place(folder, name) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return {}


_loaded = {}


def shared_prior(config):
    """The prior of this process for a PriorConfig; the last one is kept, and let go before another is loaded."""
    key = (config.path, config.dtype, config.device)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = Prior(config)
    return _loaded[key]


def moments(config):
    """The steps whose pictures a figure shows before the end: at each fifth of the run, the last that --log.every records."""
    return [config.steps * part // 5 // config.log.every * config.log.every for part in range(5)]


def moment_file(folder, step, particle):
    return folder / "moments" / f"step_{step:06d}_{particle:02d}.png"


def execute(folder, name, arguments):
    """Runs sds2d.py with these arguments in this process, as DIR/runs/NAME or, whatever goes wrong, DIR/failed/NAME."""
    if status(folder, name) == FINISHED:  # A worker may die when all is done but said.
        return
    out, start = folder / "unfinished" / name, time.perf_counter()
    shutil.rmtree(folder / "failed" / name, ignore_errors=True)
    try:
        config, then, resume = begin(out, arguments)
        wanted = moments(config)

        def watch(step, images):
            from recording.pictures import to_pillow

            if step in wanted:
                (out / "moments").mkdir(exist_ok=True)
                for particle, image in enumerate(images):
                    write(moment_file(out, step, particle), to_pillow(image).save)

        sds2d.run(config, shared_prior(config.prior), watch, then, resume)
    except Exception as error:  # Whatever a run dies of, the others go on.
        reason = first_line(error)
        if not isinstance(error, (InputError, FloatingPointError)):
            reason = f"{type(error).__name__}: {reason}"
        fail(folder, name, reason, time.perf_counter() - start, traceback.format_exc())
    else:
        correct_out(out / "config.yaml", str(folder / "runs" / name))
        settle(out, folder / "runs" / name, time.perf_counter() - start)


def begin(out, arguments):
    """(Config, what it was made with, whether it is there): of the run that was stopped there, or else of a new one."""
    if out.exists():
        with contextlib.suppress(InputError):
            return *reopen(["--resume", str(out)]), True
        shutil.rmtree(out)
    return sds2d.parse([*arguments, "--out", str(out)]), None, False


def fail(folder, name, reason, seconds=None, details=""):
    """Notes that a run failed; what it had written is kept beside the reason."""
    out = folder / "unfinished" / name
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "error.txt", f"{reason}\n\n{details}")
    settle(out, folder / "failed" / name, seconds, reason)


def settle(out, target, seconds, error=None):
    text = json.dumps({"seconds": seconds and round(seconds, 3), "error": error})
    write_text(out / "run.json", text)
    target.parent.mkdir(exist_ok=True)
    os.replace(out, target)


def correct_out(file, out):
    """config.yaml says where the run lies, not where it was made."""
    import yaml

    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings["out"] = out
    write_text(file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
