"""The results of a sweep: results.csv, with one line per run, and index.html, which links to every run."""

import shlex
from pathlib import Path

from recording.folder import write_text
from recording.page import comparison, last_mean, records, template
from sweeps.grid import Run, title
from sweeps.runs import FINISHED, run_folder, run_result, status


def results(folder: Path, runs: list[Run]) -> list[dict]:
    """One dict per run, in order; None where a run has no such number."""
    rows = []
    for index, run in enumerate(runs):
        home, result = run_folder(folder, run.name), run_result(folder, run.name)
        row = {"index": index, **run.values, "status": status(folder, run.name), "seconds": result.get("seconds")}
        lines = records(home) if home else []
        row["grad_norm"], row["clip_score"] = last_mean(lines, "grad_norm"), last_mean(lines, "clip_score")
        row["warnings"] = "; ".join(result.get("warnings", ()))
        rows.append(row | {"folder": home and home.relative_to(folder).as_posix(), "error": result.get("error")})
    return rows


def save_page(
    path: Path, runs: list[Run], rows: list[dict], command: list[str], summary: str, left: str | None = None
) -> None:
    """Writes index.html: the figure, and a table of the runs. command: the sweep's arguments; left: the time left, if
    the sweep is still running; the page then reloads itself."""
    commands = [shlex.join(["python", "sds2d.py", *run.arguments]) for run in runs]
    lines = list(zip(runs, rows, commands, strict=True))
    finished = {
        title(run.values.items()): path.parent / row["folder"] for run, row, _ in lines if row["status"] == FINISHED
    }
    data = comparison(finished, path) if finished else None
    names = {"name": path.parent.absolute().name, "command": shlex.join(["python", "sweep.py", *command])}
    write_text(path, template("sweep.html").render(lines=lines, summary=summary, left=left, data=data, **names))
