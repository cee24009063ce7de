"""A run's folder on the disk: made whole, held by one process, its files whole or not at all."""

import contextlib
import json
import os
import re
import shutil

from errors import InputError


def write(path, writer):
    """writer(beside) must make the file `beside`, which then takes the place of `path` at once."""
    beside = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        writer(beside)
        os.replace(beside, path)
    except Exception:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def write_text(path, text):
    write(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def make_folder(folder, config):
    """The folder with its config.yaml, whose text is `config`, in one stroke: what has a folder can be resumed."""
    beside = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        (beside / "config.yaml").write_text(config, encoding="utf-8")
        os.rename(beside, folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise InputError(f"--out {folder} can not be made: {error.strerror}") from error


@contextlib.contextmanager
def held(folder):
    """Inside, no other process can hold the folder; a killed one holds it no more. Raises InputError where one does."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder} is being written by another process; wait for it, or end it") from error
        except OSError:
            pass  # A disk that knows no locks.
        yield
    finally:
        os.close(handle)


# Pictures of a step, and the halves of files that a killed process has left.
PICTURE, HALF = r"(?:step|\w+)_(\d{6,})\.png", r"\..+\.part(\.\w+)?"


def cut_back(folder, step):
    """Takes away what a run noted of `step` and of later steps, and what it had half written."""
    for name in ("metrics.jsonl", "scores.jsonl"):
        file = folder / name
        if file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_text(file, "".join(line for line in lines if line.endswith("\n") and 0 <= step_of(line) < step))
    for file in [*folder.glob("*"), *folder.glob("*/*")]:
        ours = file.parent.name == "timesteps" or file.name.startswith("step_")
        number = re.fullmatch(PICTURE, file.name) if ours and file.parent != folder else None
        if re.fullmatch(HALF, file.name) and file.is_file() or number and int(number[1]) >= step:
            file.unlink()


def step_of(line):
    """The step of a line of metrics.jsonl or scores.jsonl: whole numbers, numbers and lists of numbers; -1 for any other."""
    try:
        values = json.loads(line)
        numbers = [number for value in values.values() for number in (value if isinstance(value, list) else [value])]
        good = type(values["step"]) is int and all(type(number) in (int, float) for number in numbers)
    except (ValueError, LookupError, AttributeError, RecursionError):
        return -1
    return values["step"] if good else -1
