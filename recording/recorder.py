"""Writes everything that a run leaves in its folder. docs/USAGE.md lists the files."""

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from errors import first_line
from priors.settings import NonNegative
from recording.checkpoint import Unsaved, load_checkpoint, save_checkpoint
from recording.finite import require_finite, state_size
from recording.folder import truncate_records, write_atomic, write_text
from recording.page import page, steps_in, time_left
from recording.pictures import grid, heat_grid, save_sheet, to_pillow, to_pixels
from recording.plots import plot_schedule
from recording.probe import probe
from recording.scores import Evaluator
from recording.tensorboard import add_numbers, add_sheet, open_writer
from recording.video import save_gif, save_video


@dataclass
class LogConfig:
    every: PositiveInt | None = None
    """Steps between recordings of the picture, the gradient, the predicted clean image, the scores and a video frame.
    A recording costs about two steps. None: about 40, but three to ten recordings before the last."""
    timesteps: tuple[NonNegative, ...] = (0.1, 0.5, 0.9)
    """Extra timesteps at which to record gradient and predictions, whatever the step's t; numbers up to 1 are fractions
    of T. Each costs as much as a step."""
    timesteps_every: PositiveInt | None = None
    """Steps between recordings at these timesteps, besides the one at the end. None: only at the end."""
    checkpoint_every: PositiveInt | None = None
    """Steps between the checkpoints that --resume continues from; there is also one at the end. None: log.every."""
    fps: Annotated[PositiveInt, Field(le=240)] = 10
    """Frames per second of the video, which lasts at least four seconds."""
    gif: bool = False
    """Also save the video as video.gif."""
    arrays: bool = False
    """Also record the latents, the gradient and the clean latents, as arrays/step_000000.safetensors."""
    gradient_scale: Literal["linear", "log"] = "linear"
    """Colour scale of the gradient maps. It ends at the 99th percentile of the whole run."""
    tensorboard: bool = False
    """Also write numbers and grids as TensorBoard events, in the folder tensorboard."""
    tile: PositiveInt = 192
    """Minimum width of a picture in a grid, in pixels; smaller ones are enlarged by an integer factor."""


class Recorder:
    """Records one run in its folder, which must exist."""

    def __init__(self, config, parts, timesteps: list[int], evaluator: Evaluator | None, resume: bool):
        """parts: what sds2d.build() returned; timesteps: --log.timesteps, from probe_timesteps. resume: restore the
        last checkpoint, if any, and delete later records. `first` is the first step."""
        self.parts, self.prior = parts, parts.algorithm.prior
        self.algorithm, self.representation, self.schedule, self.optimizer, self.particles = parts
        self.folder, self.log, self.evaluator, self.timesteps = Path(config.out), config.log, evaluator, timesteps
        self.labels, self.columns, self.steps = config.prompt, config.particles, config.steps
        self.checkpoint_every = config.log.checkpoint_every or config.log.every
        self.pending = []  # numbers of steps that are not on disk yet
        self.first = load_checkpoint(self.folder, self.steps, parts) if resume else 0
        self.unsaved = Unsaved(self.algorithm)
        if resume:
            truncate_records(self.folder, self.first)
        self.tensorboard = open_writer(self.folder, self.first) if self.log.tensorboard else None
        self.start = time.perf_counter()

    # ------------------------------------------------------------------------------------------------ calls of the loop

    def before_step(self, step: int) -> torch.Tensor | None:
        """Records the pictures that are due before a step → the images (B, 3, H, W), or None."""
        if self.log.timesteps_every and step and step % self.log.timesteps_every == 0:
            self.probe(step)
        if step % self.log.every:
            return None
        images = self.images(step)
        self.picture(step, images)
        write_text(self.folder / "index.html", page(self.folder, self.progress(step)))
        return images

    def after_step(self, step: int, result, seconds: float) -> None:
        """Records the numbers of a step, what sds2d.distill() returned for it, and its maps and a checkpoint if they
        are due. On a GPU the numbers stay there until flush(), so that no step waits for them."""
        rows = torch.arange(len(self.particles))[result.particles.rows].tolist()
        line = {"step": step, "particles": rows, "t": result.t.tolist(), "weight": result.weight.tolist()}
        norms = {"latent": result.z.flatten(1).norm(dim=1), "gradient": result.gradient.flatten(1).norm(dim=1)}
        optimizers = {"parameters": self.optimizer, "part that the method learns": self.algorithm.optimizer}
        states = {f"state of the {what}": state_size(optimizer) for what, optimizer in optimizers.items() if optimizer}
        self.pending.append((line | {"seconds": round(seconds, 6)}, norms, states))
        if self.prior.device.type == "cpu":
            self.flush()
        if step % self.log.every == 0:
            self.flush()  # Raises before a gradient that is not finite is drawn.
            self.step_maps(step, result)
        if (step + 1) % self.checkpoint_every == 0 and step + 1 < self.steps:
            self.checkpoint(step + 1)

    def finish(self, step: int) -> torch.Tensor:
        """Writes a checkpoint, the final pictures and all other files after `step` steps, at the end or where the run
        was stopped → the final images. If one of the other files fails, prints a warning."""
        self.checkpoint(step)
        images = self.images(step)
        for index, image in enumerate(images):
            write_atomic(self.folder / f"final_{index:02d}.png", to_pillow(image).save)
        write_atomic(self.folder / "final.png", self.sheet(images).save)
        with warning("the last recording"):
            self.picture(step, images)
        with warning("the representation's files"):
            for name, writer in self.representation.files().items():
                write_atomic(self.folder / name, writer)
        with warning("timesteps/"):
            self.probe(step)
        with warning("gradients/"):
            self.draw_gradients()
        with warning("schedule.png"):
            write_atomic(self.folder / "schedule.png", lambda path: plot_schedule(path, self.schedule))
        self.summarize()
        if self.tensorboard:
            with warning("tensorboard/"):
                self.tensorboard.close()
        return images

    def progress(self, step: int) -> str:
        """How far the run is, and how long the rest will take at the speed so far."""
        done, seconds = step - self.first, time.perf_counter() - self.start
        rest = f", {time_left(seconds / done * (self.steps - step))}" if done else ""
        return f"step {step} of {self.steps}{rest}"

    def summarize(self) -> None:
        """Writes the video and the page of the recorded pictures, if any, or warnings if that fails."""
        pictures = [self.folder / "images" / f"step_{step:06d}.png" for step in steps_in(self.folder / "images")]
        if pictures:
            with warning("the video"):
                save_video(self.folder / "video.mp4", pictures, self.log.fps)
                if self.log.gif:
                    save_gif(self.folder / "video.gif", pictures, self.log.fps)
            with warning("index.html"):
                write_text(self.folder / "index.html", page(self.folder))

    # -------------------------------------------------------------------------------------------------------- numbers

    def flush(self) -> None:
        """Writes the pending steps. Raises FloatingPointError at the first with a value that is not finite."""
        lines = []
        try:
            for line, norms, states in self.pending:
                at, rows = f"step {line['step']}", zip(line["t"], line["particles"], strict=True)
                places = [f"{at}, timestep {t}, particle {row}" for t, row in rows]
                for what, values in norms.items():
                    require_finite(what, values, places, self.prior.dtype)
                for what, value in states.items():
                    require_finite(what, value, [f"{at}, all particles"], self.prior.dtype)
                if len(places) == len(self.particles):
                    del line["particles"]
                lines.append(line | {"grad_norm": norms["gradient"].tolist()})
        finally:
            self.pending = []
            self.append("metrics.jsonl", lines)

    def append(self, name: str, lines: list[dict]) -> None:
        if self.tensorboard:
            add_numbers(self.tensorboard, lines)
        with open(self.folder / name, "a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in lines)

    def checkpoint(self, step: int) -> None:
        """Saves the state after `step` steps, once the numbers up to it are written and found finite."""
        self.flush()
        self.unsaved.require_unchanged()
        save_checkpoint(self.folder, step, self.parts)

    # ------------------------------------------------------------------------------------------------------- pictures

    def save(self, name: str, sheet: Image.Image) -> None:
        """Saves a sheet as DIR/name, and for TensorBoard."""
        save_sheet(self.folder / name, sheet)
        if self.tensorboard:
            add_sheet(self.tensorboard, name, sheet)

    def save_tensors(self, name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        write_atomic(path, lambda part: save_file(tensors, part, metadata))

    def draw_gradients(self) -> None:
        """Redraws the gradient maps of the whole run on one scale."""
        maps = {}
        for file in (self.folder / "gradients").glob("step_*.safetensors"):
            with safe_open(file, "pt") as data:
                maps[file.with_suffix(".png")] = data.get_tensor("norm"), json.loads(data.metadata()["labels"])
        # not torch.quantile, which is limited to 16 million elements
        end = float(np.quantile(np.concatenate([norm.flatten() for norm, _ in maps.values()]), 0.99)) if maps else 0.0
        for file, (norm, labels) in maps.items():
            save_sheet(file, self.heat_map(norm, labels, len(norm) // len(labels), end))

    def heat_map(self, norm: torch.Tensor, labels: list[str], columns: int, largest: float | None = None):
        return heat_grid(norm, labels, columns, self.log.tile, largest, self.log.gradient_scale == "log")

    def sheet(self, images: torch.Tensor) -> Image.Image:
        """One row per prompt, one column per particle; in an edit, the source before its row or each particle."""
        sources, columns, labels = self.particles.source_images, self.columns, self.labels
        if sources is None:
            return grid(images, labels, columns, self.log.tile)
        rows, sources = images.cpu().unflatten(0, (-1, columns)), sources.cpu().unflatten(0, (-1, columns))
        if (sources == sources[:, :1]).all():
            rows = torch.cat([sources[:, :1], rows], 1)
        else:
            rows = torch.stack([sources, rows], 2).flatten(1, 2)
        before = self.particles.source_prompts[::columns]
        labels = [f"{source} → {target}" for source, target in zip(before, labels, strict=True)]
        return grid(rows.flatten(0, 1), labels, rows.shape[1], self.log.tile)

    @torch.no_grad()
    def images(self, step: int) -> torch.Tensor:
        """The images (B, 3, H, W) before step `step`."""
        self.flush()
        images = self.representation.images().detach().clone()
        places = [f"before step {step}, particle {row}" for row in range(len(images))]
        require_finite("decoded picture", images.flatten(1).norm(dim=1), places, self.prior.dtype)
        return images

    @torch.no_grad()
    def picture(self, step: int, images: torch.Tensor) -> None:
        """Records the images before step `step`, the representation's views and the scores."""
        self.save(f"images/step_{step:06d}.png", self.sheet(images))
        # Also each by itself, for figures: PNGs would take ten times as long.
        pixels = torch.stack([to_pixels(image) for image in images])
        self.save_tensors(f"images/step_{step:06d}.safetensors", {"images": pixels})
        for name, (pictures, note) in self.representation.views(images).items():
            labels = [f"{note} · {label}" if note else label for label in self.labels]
            self.save(f"{name}/step_{step:06d}.png", grid(pictures, labels, self.columns, self.log.tile))
        if self.evaluator:
            self.append("scores.jsonl", [{"step": step, **self.evaluator.scores(images)}])

    def step_maps(self, step: int, result) -> None:
        """Records the gradient and the clean latents of a step."""
        z, t, gradient = result.z, result.t, result.gradient
        rows = t.unflatten(0, (len(self.labels), -1)).tolist()
        times = [" ".join(map(str, dict.fromkeys(row))) for row in rows]
        labels = [f"{label} · t = {time}" for label, time in zip(self.labels, times, strict=True)]
        clean = self.algorithm.predictions | {"pseudo_gt": self.algorithm.pseudo_gt(z, t, gradient)}
        self.maps(gradient, clean, labels, len(rows[0]), f"{{}}/step_{step:06d}.png")
        norm = {"norm": gradient.norm(dim=1)}
        self.save_tensors(f"gradients/step_{step:06d}.safetensors", norm, {"labels": json.dumps(labels)})
        if self.log.arrays:
            arrays = {"z": z, "t": t, "weight": result.weight, "gradient": gradient} | clean
            self.save_tensors(f"arrays/step_{step:06d}.safetensors", arrays)

    def probe(self, step: int) -> None:
        """Records gradient and predictions at --log.timesteps: grids, rows timesteps, columns particles."""
        if not self.timesteps:
            return
        self.flush()
        with torch.no_grad():
            z = self.representation.latents()
        gradient, clean = probe(
            self.algorithm, z, self.particles, self.timesteps, min(step, self.steps - 1) / self.steps
        )
        before = f"--log.timesteps before step {step}"
        places = [f"{before}, timestep {t}, particle {row}" for t in self.timesteps for row in range(len(z))]
        require_finite("gradient", gradient.flatten(1).norm(dim=1), places, self.prior.dtype)
        labels = [f"t = {t}" for t in self.timesteps]
        self.maps(gradient, clean, labels, len(z), f"timesteps/{{}}_{step:06d}.png")

    @torch.no_grad()
    def maps(self, gradient: torch.Tensor, clean: dict, labels: list[str], columns: int, path: str) -> None:
        """Saves |g| and {name: clean latents} as grids, in the files path.format(name)."""
        norm = gradient.norm(dim=1).cpu()
        self.save(path.format("gradients"), self.heat_map(norm, labels, columns))
        for name, latents in clean.items():
            self.save(path.format(name), grid(self.prior.decode(latents), labels, columns, self.log.tile))


@contextlib.contextmanager
def warning(what: str):
    """Inside, an error becomes a warning: the run is over, and its picture and checkpoint are on disk."""
    try:
        yield
    except Exception as error:
        tqdm.write(f"warning: {what} could not be written: {first_line(error)}", file=sys.stderr)
