"""index.html: one page for a run's folder, or for several runs; it opens from disk and loads nothing from
elsewhere."""

import filecmp
import json
import os
import re
import shlex
import statistics
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml

from recording.environment import load_environment
from recording.folder import read_records

TITLES = {
    "images": "The pictures",
    "gradients": "|g|, the magnitude of the gradient for the latents",
    "x0": "The clean image predicted by the prior",
    "pseudo_gt": "The pseudo ground truth, the clean image that g points to",
    "phi": "The clean image predicted by φ",
    "ellipses": "The Gaussians' outlines at one standard deviation",
    "density": "The density of the Gaussians",
    "paths": "The curves and their control points",
}
CURVES = {
    "t": "t, the timestep",
    "weight": "w(t), the weight",
    "grad_norm": "‖g‖, the gradient norm",
    "clip_score": "CLIP score, 100 cos(image, prompt)",
    "directional": "Directional CLIP similarity, 100 cos(change in the image, change in the prompt)",
}
POINTS = 500  # per curve; more would not be visible

HERE = Path(__file__).parent
# template(name): a page from recording/html or sweeps, which can include others.
template = jinja2.Environment(
    loader=jinja2.FileSystemLoader([HERE / "html", HERE.parent / "sweeps"]), autoescape=True
).get_template
PAGE = template("page.html")  # Compiled here, not while the run waits for its first recording.


def records(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl and scores.jsonl."""
    return read_records(folder / "metrics.jsonl") + read_records(folder / "scores.jsonl")


def recorded(folder: Path) -> dict[str, list[int]]:
    """{folder of recorded pictures: its steps}, in page order."""
    steps = {path.name: steps_in(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: steps[name] for name in dict.fromkeys((*TITLES, *steps)) if steps.get(name)}


def page(folder: Path, progress: str | None = None) -> str:
    """The page of a run's folder, as HTML. progress: how far the run is, if it is not over; the page then reloads
    itself."""
    warnings = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["warnings"]
    settings = (folder / "config.yaml").read_text(encoding="utf-8")
    config = yaml.load(settings, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C is ten times as fast
    command = shlex.join(["python", "sds2d.py", *(config["command"] or ["--config", str(folder / "config.yaml")])])
    data = comparison({"": folder}, folder / "index.html")
    pictures, titles = data["runs"][0]["pictures"], dict(data["names"])
    last = [folder / name / f"step_{pictures[name][-1]:06d}.png" for name in ("x0", "pseudo_gt") if name in pictures]
    if len(last) == 2 and filecmp.cmp(*last, shallow=False):  # as for SDS
        titles["x0"] += ", which is also the pseudo ground truth"
        del titles["pseudo_gt"]
    files = sorted(path.name for path in folder.iterdir())
    probes = {name: steps[-1] for name in titles if (steps := steps_in(folder / "timesteps", name))}
    return PAGE.render(
        config=config,
        warnings=warnings,
        progress=progress,
        warnings=load_environment(folder).get("warnings", []),
        probes=[(f"{titles[name]}, at step {step}", f"{name}_{step:06d}.png") for name, step in probes.items()],
        files=files,
        parts=[name for name in files if name.endswith((".svg", ".ply"))],
        command=command,
        settings=settings,
        data=data | {"names": list(titles.items()), "running": bool(progress)},
    )


def comparison(runs: dict[str, Path], page: Path) -> dict[str, Any]:
    """The data of runs {label: folder} for a page at `page`: pictures with their steps and URLs, curves, results."""
    parts, last = [], 0
    for label, folder in runs.items():
        lines, home = records(folder), quote(Path(os.path.relpath(folder, page.parent)).as_posix())
        curves = {name: drawn for name in CURVES if (drawn := points(name, lines))}
        part = {"label": label, "home": home, "pictures": recorded(folder), "curves": curves}
        done = [line["seconds"] for line in lines if "seconds" in line]
        parts.append(part | {"steps_done": len(done), "seconds": sum(done)})
        parts[-1] |= {name: last_mean(lines, name) for name in ("clip_score", "directional")}
        last = max(last, *(line["step"] for line in lines), 0)
    names = dict.fromkeys(name for part in parts for name in part["pictures"])
    return {
        "runs": parts,
        "names": [(name, TITLES.get(name, name)) for name in dict.fromkeys((*TITLES, *names)) if name in names],
        "steps": sorted({step for part in parts for of_one in part["pictures"].values() for step in of_one}),
        "curves": [(name, title) for name, title in CURVES.items() if any(name in part["curves"] for part in parts)],
        "last": last,
    }


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
