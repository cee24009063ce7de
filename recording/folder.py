"""A run's folder on disk: made by one process, locked by one process, and its files whole or not there."""

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import filelock

from errors import InputError


def write_atomic(path: Path, writer: Callable[[Path], None]) -> None:
    """writer(part) must make the file `part`, which then replaces `path`; each process has a part of its own."""
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        writer(part)
        os.replace(part, path)
    except Exception:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_csv(path: Path, rows: list[dict]) -> None:
    """A line a row; the first has all columns."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def make_folder(folder: Path, config: str, unique: bool = False) -> Path:
    """A new folder with its config.yaml, whose text is `config`, in one atomic step → its path.

    unique: whether a number is added to a name that is taken. Otherwise, and for other faults, raises InputError.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    for number in itertools.count(1):
        name = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            part.mkdir(parents=True, exist_ok=True)
            (part / "config.yaml").write_text(config, encoding="utf-8")
            if os.path.lexists(name):  # Renaming would replace an empty folder; one that is not empty it refuses.
                raise FileExistsError(errno.EEXIST, "it exists")
            os.rename(part, name)
            break
        except OSError as error:
            if not (unique and os.path.lexists(name)):
                shutil.rmtree(part, ignore_errors=True)
                raise InputError(f"--out {folder} cannot be made: {error.strerror}") from error
    return name


@contextlib.contextmanager
def lock_folder(folder: Path):
    """Inside, no other process can lock the folder; the lock ends with the process. Raises InputError where one has
    it."""
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise InputError(f"{folder} is being written by another process; wait for it, or stop it") from error


def read_records(file: Path) -> list[dict]:
    """The lines of metrics.jsonl or scores.jsonl, if there is one; the last may be cut off, or still being written."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def truncate_records(folder: Path, step: int) -> None:
    """Deletes what a run recorded at `step` and later, and partial files."""
    for name in ("metrics.jsonl", "scores.jsonl"):
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_text(folder / name, "".join(line for line in lines if 0 <= step_of(line) < step))
    for file in [*folder.glob("*"), *folder.glob("*/*")]:
        ours = file.parent != folder and (file.parent.name == "timesteps" or file.name.startswith("step_"))
        number = re.fullmatch(r"\w+_(\d{6,})\.(png|safetensors)", file.name) if ours else None
        if number and int(number[1]) >= step or re.fullmatch(r"\..+\.part(\.\w+)?", file.name):
            file.unlink()


def step_of(line: str) -> int:
    """The step of a whole line of metrics.jsonl or scores.jsonl, numbers and lists of numbers; -1 for any other."""
    try:
        values = json.loads(line)
        numbers = [number for value in values.values() for number in (value if isinstance(value, list) else [value])]
        good = type(values["step"]) is int and all(type(number) in (int, float) for number in numbers)
        return values["step"] if good and line.endswith("\n") else -1
    except (ValueError, LookupError, AttributeError, RecursionError):
        return -1
