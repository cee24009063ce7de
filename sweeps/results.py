"""What a sweep says in words: results.csv, a line a run, and index.html, which links every run."""

import csv
import json
import shlex
from pathlib import Path
from urllib.parse import quote

import jinja2

from recording.folder import write_atomic, write_text
from sweeps.grid import Run
from sweeps.runs import FINISHED, run_folder, run_result, status


def results(folder: Path, runs: list[Run]) -> list[dict]:
    """One dict a run, in their order; None where a run has no such number."""
    rows = []
    for index, run in enumerate(runs):
        home, result = run_folder(folder, run.name), run_result(folder, run.name)
        row = {"index": index, **{flag.removeprefix("--"): text for flag, text in run.values.items()}}
        row |= {"status": status(folder, run.name), "seconds": result.get("seconds")}
        row["grad_norm"] = last_mean(home, "metrics.jsonl", "grad_norm")
        row["clip_score"] = last_mean(home, "scores.jsonl", "clip_score")
        rows.append(row | {"folder": home and home.relative_to(folder).as_posix(), "error": result.get("error")})
    return rows


def last_mean(home: Path | None, name: str, key: str) -> float | None:
    """The mean over the particles in the last line of a .jsonl file."""
    try:
        values = json.loads((home / name).read_text(encoding="utf-8").splitlines()[-1])[key]
        return sum(values) / len(values)
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError):  # Not every run has every file.
        return None


def save_csv(path: Path, rows: list[dict]) -> None:
    def write(part):
        with open(part, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    write_atomic(path, write)


def save_page(path: Path, runs: list[Run], rows: list[dict], command: list[str], summary: str) -> None:
    """index.html: the figure, and a table of the runs. command: the sweep's own."""
    template = jinja2.Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"), autoescape=True)
    swept = [flag.removeprefix("--") for flag in runs[0].values]
    lines = [{**row, "values": [row[name] for name in swept], "link": None} for row in rows]
    for line, run in zip(lines, runs, strict=True):
        line["command"] = shlex.join(["python", "sds2d.py", *run.arguments])
        if line["folder"]:
            names = ["index.html", "final.png"] if line["status"] == FINISHED else ["error.txt"]
            target = next((name for name in names if (path.parent / line["folder"] / name).is_file()), "")
            line["link"], line["folder"] = quote(f"{line['folder']}/{target}"), quote(line["folder"])
    scored = any(row["clip_score"] is not None for row in rows)
    command = shlex.join(["python", "sweep.py", *command])
    name = path.parent.absolute().name
    text = template.render(name=name, swept=swept, lines=lines, scored=scored, command=command, summary=summary)
    write_text(path, text)
