"""index.html: one page for a run, or for several side by side. It opens from disk and loads nothing from elsewhere."""

import functools
import os
import re
import shlex
import statistics
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml

from algorithms import ALGORITHMS
from recording.environment import load_environment
from recording.folder import read_records
from representations import REPRESENTATIONS

FINISHED, FAILED, UNFINISHED, NOT_RUN = "finished", "failed", "unfinished", "not run"
# {folder of recorded pictures: its title}: those of every run, then those of some methods and representations.
TITLES = {
    "images": "The pictures",
    "gradients": "|g|, the magnitude of the gradient for the latents",
    "x0": "The clean image predicted by the prior",
    "pseudo_gt": "The pseudo ground truth, the clean image that g points to",
}
for cls in (*ALGORITHMS.values(), *REPRESENTATIONS.values()):
    TITLES |= cls.titles
CURVES = {
    "t": "t, the timestep",
    "weight": "w(t), the weight",
    "grad_norm": "‖g‖, the gradient norm",
    "clip_score": "CLIP score, 100 cos(image, prompt)",
    "directional": "Directional CLIP similarity, 100 cos(change in the image, change in the prompt)",
}
# The settings in the table of a run's own page.
SHOWN = (
    "algo.name",
    "rep.kind",
    "algo.guidance_scale",
    "steps",
    "schedule.timestep",
    "schedule.weight",
    "seed",
    "seeds",
)
POINTS = 500  # per curve; more would not be visible

# Compiled here, not while the run waits for its first recording.
PAGE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "html"), autoescape=True, trim_blocks=True
).get_template("page.html")


@functools.cache  # A page is written often.
def parse_settings(text: str) -> dict[str, Any]:
    """The text of a config.yaml → its settings, nested. PyYAML's loader in C is ten times as fast."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def page(folder: Path, progress: str | None = None) -> str:
    """The page of a run's folder, as HTML. progress: how far the run is, if it is not over; the page then reloads
    itself."""
    data = comparison({folder.absolute().name: folder}, folder / "index.html")
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    run, config, over = data["runs"][0], parse_settings(text), progress is None
    values = {name: functools.reduce(dict.get, name.split("."), config) for name in SHOWN}
    run["values"] = {name.replace("_", "-"): value for name, value in values.items() if value not in (None, [])}
    run["status"] = run["status"] if over else "running"
    files = sorted(path.name for path in folder.iterdir())
    probes = []
    for name, title in data["names"]:
        if steps := steps_in(folder / "timesteps", name):
            probes.append((name, f"{title}, at step {steps[-1]}", f"timesteps/{name}_{steps[-1]:06d}.png"))
    return PAGE.render(
        data=data,
        heading="\n".join(config["prompt"]) or "(empty prompt)",
        summary="The run",
        progress=progress,
        picture="final.png" if "final.png" in files and over else None,
        links=[name for name in files if name.endswith((".svg", ".ply"))],
        probes=probes,
        schedule="schedule.png" in files,
        video="video.mp4" in files and over,
        command=shlex.join(["python", "sds2d.py", *(config["command"] or ["--config", str(folder / "config.yaml")])]),
        settings=text,
    )


def comparison(runs: dict[str, Path], page: Path) -> dict[str, Any]:
    """The data of runs {label: folder} for a page at `page`: what read_run() finds, and what the runs share.

    runs    one dict a run, in order; `home` is the URL of its folder. For the table on the page, the caller adds
            `values`, {setting: value}
    names   [(folder of recorded pictures, its title)];  steps: all steps with a picture
    curves  [(name, title)];  last: the last step of a curve
    """
    parts = []
    for label, folder in runs.items():
        home = quote(Path(os.path.relpath(folder, page.parent)).as_posix())
        parts.append({"label": label, "home": home, **read_run(folder)})
    names = dict.fromkeys(name for part in parts for name in part["pictures"])
    return {
        "runs": parts,
        "names": [(name, TITLES.get(name, name)) for name in dict.fromkeys((*TITLES, *names)) if name in names],
        "steps": sorted({step for part in parts for steps in part["pictures"].values() for step in steps}),
        "curves": [(name, title) for name, title in CURVES.items() if any(name in part["curves"] for part in parts)],
        "last": max((part["last"] for part in parts), default=0),
    }


def read_run(folder: Path) -> dict[str, Any]:
    """What a folder tells of its run; also of one that has not been started, whose folder does not exist.

    status      finished, failed, unfinished or not run;  error: the reason, of a failed run
    warnings    lines;  seconds: what its steps took so far
    grad_norm, clip_score: the last means over the particles, or None
    pictures    {folder: steps};  curves: {name: points()};  last: the last recorded step
    """
    file, error = folder / "config.yaml", folder / "error.txt"
    lines = read_records(folder / "metrics.jsonl") + read_records(folder / "scores.jsonl")
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    if error.is_file():
        status = FAILED
    elif not file.is_file():
        status = NOT_RUN
    else:  # A run that was stopped has a final.png of the step that it reached.
        steps = parse_settings(file.read_text(encoding="utf-8"))["steps"]
        status = FINISHED if (folder / "final.png").is_file() and len(seconds) >= steps else UNFINISHED
    return {
        "status": status,
        "error": error.read_text(encoding="utf-8").partition("\n")[0] if status == FAILED else None,
        "warnings": load_environment(folder).get("warnings", []),
        "seconds": sum(seconds),
        "grad_norm": last_mean(lines, "grad_norm"),
        "clip_score": last_mean(lines, "clip_score"),
        "pictures": recorded(folder) if folder.is_dir() else {},
        "curves": {name: drawn for name in CURVES if (drawn := points(name, lines))},
        "last": max((line["step"] for line in lines), default=0),
    }


def differences(runs: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The settings {dotted name: value} of runs → {setting: text} of each, only those in which they differ."""
    names = dict.fromkeys(name for settings in runs for name in settings if name not in ("command", "environment"))
    names = [name for name in names if any(settings.get(name) != runs[0].get(name) for settings in runs)]

    def text(value):
        return " · ".join(map(str, value)) if isinstance(value, list) else str(value)

    return [{name.replace("_", "-"): text(settings.get(name)) for name in names} for settings in runs]


def recorded(folder: Path) -> dict[str, list[int]]:
    """{folder of recorded pictures: its steps}, in page order."""
    steps = {path.name: steps_in(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: steps[name] for name in dict.fromkeys((*TITLES, *steps)) if steps.get(name)}


def last_mean(lines: list[dict], name: str) -> float | None:
    """The mean over the particles in the last line that has this number."""
    return next((statistics.fmean(line[name]) for line in reversed(lines) if name in line), None)


def time_left(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def steps_in(folder: Path, name: str = "step") -> list[int]:
    """The steps for which a folder has a picture of that name, sorted."""
    matches = [re.fullmatch(rf"{name}_(\d{{6,}})\.png", path.name) for path in folder.glob(f"{name}_*.png")]
    return sorted(int(match[1]) for match in matches if match)


def points(name: str, lines: list[dict]) -> list[list[float]]:
    """A quantity over the steps: [step, min, mean, max] over the particles, with neighbouring steps pooled into at most
    POINTS points."""
    values = [(line["step"], line[name]) for line in lines if name in line]
    size = -(-len(values) // POINTS) or 1
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    pooled = [(part[0][0], [value for _, row in part for value in row]) for part in parts]
    return [[step, min(row), sum(row) / len(row), max(row)] for step, row in pooled]
