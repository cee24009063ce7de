"""index.html: one page that shows a run's folder, opened from disk, with nothing loaded from elsewhere."""

import html
import json
import re
import shlex
import string
from pathlib import Path

from settings.stored import named

TITLES = {
    "images": "The picture",
    "gradients": "|g|, the gradient's magnitude over the latents",
    "x0": "The clean image that the prior predicts",
    "pseudo_gt": "The pseudo ground truth, the clean image that g points at",
    "lora": "The clean image that φ, the prior with its LoRA, predicts",
    "ellipses": "The Gaussians' outlines at one standard deviation",
    "density": "How densely the Gaussians lie",
}
CURVES = {
    "t": "t, the timestep",
    "weight": "w(t), the weight",
    "grad_norm": "‖g‖, the gradient's norm",
    "clip_score": "CLIP score, 100 cos(image, prompt)",
    "directional": "Directional CLIP similarity, 100 cos(change of the image, change of the prompt)",
}
POINTS = 500  # of a curve; more would not be seen


def page(folder, flags):
    """The page of a finished run's folder, as text. flags: those of sds2d.py that repeat the run."""
    import yaml

    folder = Path(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    lines = [json.loads(line) for name in ("metrics", "scores") for line in read(folder / f"{name}.jsonl")]
    seen = {path.name: steps_in(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    names = [name for name in (*TITLES, *seen) if seen.get(name)]
    panels = [{"name": name, "title": TITLES.get(name, name), "steps": seen[name]} for name in dict.fromkeys(names)]
    prompts = "\n".join(config["prompt"])
    command = shlex.join(["python", "sds2d.py", *flags])
    data = {"steps": panels[0]["steps"], "panels": panels}
    template = string.Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"{config['algo']['name']}: {prompts}"[:100]),
        heading=html.escape(prompts[:600] + ("…" if len(prompts) > 600 else "")) or "(the empty prompt)",
        summary=html.escape(summary(config, lines)),
        curves="".join(curve(name, title, lines) for name, title in CURVES.items()),
        sections=at_timesteps(folder) + extras(folder),
        command=html.escape(command),
        settings="".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in named(config)
            if name != "out" and value is not None
        ),
        data=json.dumps(data).replace("<", "\\u003c"),
    )


def read(file):
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def steps_in(folder):
    """The steps of which a folder holds a picture, in order."""
    found = [re.fullmatch(r"step_(\d{6,})\.png", path.name) for path in folder.glob("step_*.png")]
    return sorted(int(name[1]) for name in found if name)


def summary(config, lines):
    """The run in a line."""
    seconds = sum(line.get("seconds", 0) for line in lines)
    scale = config["algo"]["guidance_scale"]
    parts = [
        f"{config['algo']['name']} on {config['rep']['kind']}",
        *([f"guidance scale {scale:g}"] if scale is not None else []),
        f"{config['steps']} steps in {seconds:.0f} s",
        f"timesteps {config['schedule']['timestep']}, weight {config['schedule']['weight']}",
        f"seed {config['seed']}",
        f"prior {Path(config['prior']['path']).name}",
    ]
    return " · ".join(parts)


def at_timesteps(folder):
    """The last look at the timesteps that --log.timesteps names."""
    figures = []
    for name, title in TITLES.items():
        found = [
            re.fullmatch(rf"{name}_(\d{{6,}})\.png", path.name) for path in (folder / "timesteps").glob(f"{name}_*.png")
        ]
        for step in sorted(int(file[1]) for file in found if file)[-1:]:
            figures.append(
                f'<figure><figcaption>{title}, at step {step}</figcaption><img src="timesteps/{name}_{step:06d}.png" '
                f'alt="{title}"></figure>'
            )
    return f'<h2>At other timesteps</h2><div class="row">{"".join(figures)}</div>' if figures else ""


def extras(folder):
    """The schedule and the video."""
    schedule = '<h2>The schedule</h2><figure><img src="schedule.png" alt="timesteps and weights over the run"></figure>'
    video = '<h2>Video</h2><figure><video src="video.mp4" controls loop muted playsinline></video></figure>'
    return (schedule if (folder / "schedule.png").is_file() else "") + (
        video if (folder / "video.mp4").is_file() else ""
    )


def curve(name, title, lines):
    """One quantity over the steps as an SVG in a figure: the particles' mean, and a band from the least to the greatest."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    if not points:
        return ""
    width, height, left, right, top, bottom = 460, 190, 52, 448, 10, 166
    last = max(line["step"] for line in lines) or 1
    # Neighbours share a point where there are more than can be seen.
    size = -(-len(points) // POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    pooled = [(part[0][0], [value for _, values in part for value in values]) for part in parts]
    low, high = min(min(values) for _, values in pooled), max(max(values) for _, values in pooled)
    low = 0 if 0 <= low < high / 2 or low == high else low
    span = (high - low) or 1

    def at(step, value):
        return f"{left + (right - left) * step / last:.1f},{bottom - (bottom - top) * (value - low) / span:.1f}"

    mean = " ".join(at(step, sum(values) / len(values)) for step, values in pooled)
    upper = [at(step, max(values)) for step, values in pooled]
    lower = [at(step, min(values)) for step, values in pooled]
    band = " ".join(upper + lower[::-1])
    ticks = "".join(
        f'<line class="axis" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{low + span * (bottom - y) / (bottom - top):.3g}</text>'
        for y in (top, (top + bottom) // 2, bottom)
    )
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{ticks}'
        f'<text x="{left}" y="{height - 6}">0</text><text x="{right}" y="{height - 6}" text-anchor="end">step {last}</text>'
        f'<polygon class="band" points="{band}"/><polyline class="line" points="{mean}"/>'
        f'<line class="now" data-left="{left}" data-right="{right}" y1="{top}" y2="{bottom}"/></svg></figure>'
    )
