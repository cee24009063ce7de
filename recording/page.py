"""index.html: one page for a run's folder, opened from disk, with nothing loaded from elsewhere."""

import functools
import json
import re
import shlex
from pathlib import Path

import jinja2
import yaml

TITLES = {
    "images": "The picture",
    "gradients": "|g|, the gradient's magnitude over the latents",
    "x0": "The clean image that the prior predicts",
    "pseudo_gt": "The pseudo ground truth, the clean image that g leads to",
    "lora": "The clean image that φ, the prior with its LoRA, predicts",
    "ellipses": "The Gaussians' outlines at one standard deviation",
    "density": "The density of the Gaussians",
    "paths": "The curves and their control points",
}
CURVES = {
    "t": "t, the timestep",
    "weight": "w(t), the weight",
    "grad_norm": "‖g‖, the gradient's norm",
    "clip_score": "CLIP score, 100 cos(image, prompt)",
    "directional": "Directional CLIP similarity, 100 cos(change of the image, change of the prompt)",
}
POINTS = 500  # of a curve; more can not be seen


@functools.cache
def template(name: str) -> jinja2.Template:
    """A page of recording/html or sweeps, with the parts that it includes."""
    root = Path(__file__).parent
    loader = jinja2.FileSystemLoader([root / "html", root.parent / "sweeps"])
    return jinja2.Environment(loader=loader, autoescape=True).get_template(name)


def records(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl and scores.jsonl."""
    files = [folder / f"{name}.jsonl" for name in ("metrics", "scores")]
    lines = [line for file in files if file.is_file() for line in file.read_text("utf-8").splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]  # The last may still be being written.


def recorded(folder: Path) -> dict[str, list[int]]:
    """{folder of recorded pictures: the steps that it has}, in the order of a page."""
    steps = {path.name: steps_in(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: steps[name] for name in dict.fromkeys((*TITLES, *steps)) if steps.get(name)}


def page(folder: Path, progress: str | None = None) -> str:
    """The page of a run's folder, as text. progress: how far a run is that has not ended; its page loads itself
    again."""
    settings = (folder / "config.yaml").read_text(encoding="utf-8")
    config = yaml.load(settings, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C is ten times as fast
    command = shlex.join(["python", "sds2d.py", *(config["command"] or ["--config", str(folder / "config.yaml")])])
    lines = records(folder)
    pictures, titles = recorded(folder), TITLES
    both = pictures.get("x0") if pictures.get("x0") == pictures.get("pseudo_gt") else None
    if both and alike(folder, "x0", "pseudo_gt", both):
        titles = {**TITLES, "x0": f"{TITLES['x0']}, which is the pseudo ground truth, too"}
        del pictures["pseudo_gt"], titles["pseudo_gt"]
    panels = [{"name": name, "title": titles.get(name, name), "steps": s} for name, s in pictures.items()]
    curves = [{"title": title, "points": points(name, lines)} for name, title in CURVES.items()]
    files = sorted(path.name for path in folder.iterdir())
    last = max((line["step"] for line in lines), default=0)
    return template("page.html").render(
        config=config,
        progress=progress,
        done=len([line for line in lines if "t" in line]),
        seconds=sum(line.get("seconds", 0) for line in lines),
        probes=[probe for name in titles if (probe := last_probe(folder, name))],
        files=files,
        parts=[name for name in files if name.endswith((".svg", ".ply"))],
        command=command,
        settings=settings,
        data={
            "steps": panels[0]["steps"],
            "panels": panels,
            "curves": [c for c in curves if c["points"]],
            "last": last,
            "running": bool(progress),
        },
    )


def alike(folder: Path, first: str, second: str, steps: list[int]) -> bool:
    """Whether two folders of recorded pictures have the same ones, as x0 and pseudo_gt of SDS, whose gradient leads to
    what the prior predicts."""
    names = [f"step_{step:06d}.png" for step in steps]
    return all((folder / first / name).read_bytes() == (folder / second / name).read_bytes() for name in names)


def time_left(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def steps_in(folder: Path) -> list[int]:
    """The steps of which a folder has a picture, in order."""
    matches = [re.fullmatch(r"step_(\d{6,})\.png", path.name) for path in folder.glob("step_*.png")]
    return sorted(int(match[1]) for match in matches if match)


def points(name: str, lines: list[dict]) -> list[list[float]]:
    """A quantity over the steps: [step, least, mean, greatest] over the particles, neighbours pooled into POINTS
    points."""
    values = [(line["step"], line[name]) for line in lines if name in line]
    size = -(-len(values) // POINTS) or 1
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    pooled = [(part[0][0], [value for _, row in part for value in row]) for part in parts]
    return [[step, min(row), sum(row) / len(row), max(row)] for step, row in pooled]


def last_probe(folder: Path, name: str) -> tuple[str, str] | None:
    """(title, file) of the last recording at --log.timesteps."""
    matches = [re.fullmatch(rf"{name}_(\d{{6,}})\.png", path.name) for path in (folder / "timesteps").glob("*.png")]
    last = max((match for match in matches if match), key=lambda match: int(match[1]), default=None)
    return last and (f"{TITLES[name]}, at step {int(last[1])}", last[0])
