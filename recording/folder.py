"""A run's folder on disk: created and locked by one process at a time; files are written atomically."""

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import re
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import filelock

from errors import InputError, first_line


class FolderInUse(InputError):
    """Another process is writing to the folder."""


def write_atomic(path: Path, writer: Callable[[Path], None]) -> None:
    """writer(part) must write the file `part`, which then replaces `path`; its name is unique to the process."""
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
    """One line per row; the first row has all columns."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def make_folder(folder: Path, files: dict[str, str], unique: bool = False) -> Path:
    """Atomically makes a new folder with files {name: text} → its path.

    unique: add a number to a name that is taken. Otherwise, and for any other failure, raises InputError.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    for number in itertools.count(1):
        name = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            part.mkdir(parents=True, exist_ok=True)
            for file, text in files.items():
                (part / file).write_text(text, encoding="utf-8")
            if os.path.lexists(name):  # os.rename replaces an empty folder, and refuses only a non-empty one.
                raise FileExistsError(errno.EEXIST, "it already exists")
            os.rename(part, name)
            break
        except OSError as error:
            if not (unique and os.path.lexists(name)):
                shutil.rmtree(part, ignore_errors=True)
                raise InputError(f"--out {folder} cannot be made: {error.strerror}") from error
    return name


@contextlib.contextmanager
def lock_folder(folder: Path):
    """Locks the folder against other processes; the lock also ends with the process. Raises FolderInUse if another
    process holds it."""
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise FolderInUse(f"{folder} is being written by another process; wait for it or stop it") from error


def write_error(folder: Path, error: Exception) -> None:
    """Notes in error.txt why the run in the folder failed: a line, and the traceback."""
    expected = isinstance(error, InputError | FloatingPointError)
    line = first_line(error) if expected else f"{type(error).__name__}: {first_line(error)}"
    write_text(folder / "error.txt", f"{line}\n\n{''.join(traceback.format_exception(error))}")


def read_records(file: Path) -> list[dict]:
    """The complete lines of metrics.jsonl or scores.jsonl, if it exists; the last may be cut off or half written."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def truncate_records(folder: Path, step: int) -> None:
    """Deletes everything recorded at `step` or later, partial files, and the note that the run failed."""
    (folder / "error.txt").unlink(missing_ok=True)
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
    """The step of a line of metrics.jsonl or scores.jsonl; -1 unless the line is complete."""
    try:
        step = json.loads(line)["step"] if line.endswith("\n") else -1
        return step if isinstance(step, int) else -1
    except (ValueError, LookupError, TypeError, RecursionError):
        return -1
