"""Writes everything that a run leaves in its folder. docs/USAGE.md lists the files."""

import json
import shutil
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

from priors.settings import NonNegative
from recording.checkpoint import load_checkpoint, parameters, save_checkpoint
from recording.finite import require_finite, require_finite_step, step_norms
from recording.folder import truncate_records, write_atomic, write_text
from recording.page import page, steps_in, time_left
from recording.pictures import grid, heat_grid, save_sheet, to_pillow, to_pixels
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

    def __init__(self, config, parts: tuple, timesteps: list[int], evaluator: Evaluator | None, resume: bool):
        """parts: what build() returned; timesteps: --log.timesteps, from probe_timesteps. resume: restore the last
        checkpoint, if any, and delete later records. `first` is the first step."""
        self.algorithm, self.representation, _, self.optimizer = parts
        self.folder, self.log, self.evaluator = Path(config.out), config.log, evaluator
        self.prior, self.timesteps = self.algorithm.prior, timesteps
        self.labels, self.columns, self.steps = config.prompt, config.particles, config.steps
        self.checkpoint_every = config.log.checkpoint_every or config.log.every
        self.pending, self.t = [], torch.zeros(len(self.algorithm.particles), dtype=torch.long)
        self.first = load_checkpoint(self.folder, self.steps, self.algorithm, self.optimizer) if resume else 0
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
        images = self.picture(step)
        write_text(self.folder / "index.html", page(self.folder, self.progress(step)))
        return images

    def after_step(self, step: int, z, t, weight, gradient, seconds: float) -> None:
        """Records a step's numbers, and its maps and a checkpoint if they are due. On a GPU the numbers stay there
        until flush(), so that no step waits for them."""
        norms = step_norms(z, gradient, parameters(self.optimizer), self.algorithm)
        particles = torch.arange(len(self.t))[self.algorithm.particles.recorded_rows]
        self.t[particles] = t
        line = {"step": step, "particles": particles.tolist(), "t": t.tolist(), "weight": weight.tolist()}
        self.pending.append((line | {"seconds": round(seconds, 6)}, norms))
        if self.prior.device.type == "cpu":
            self.flush()
        if step % self.log.every == 0:
            self.flush()  # Raises before a gradient that is not finite is drawn.
            rows = t.unflatten(0, (len(self.labels), -1)).tolist()
            times = [" ".join(map(str, dict.fromkeys(row))) for row in rows]
            labels = [f"{label} · t = {time}" for label, time in zip(self.labels, times, strict=True)]
            clean = self.algorithm.predictions | {"pseudo_gt": self.algorithm.pseudo_gt(z, t, gradient)}
            self.maps(gradient, clean, labels, len(rows[0]), f"{{}}/step_{step:06d}.png")
            norm = {"norm": gradient.norm(dim=1)}
            self.save_tensors(f"gradients/step_{step:06d}.safetensors", norm, {"labels": json.dumps(labels)})
            if self.log.arrays:
                arrays = {"z": z, "t": t, "weight": weight, "gradient": gradient} | clean
                self.save_tensors(f"arrays/step_{step:06d}.safetensors", arrays)
        if (step + 1) % self.checkpoint_every == 0 and step + 1 < self.steps:
            self.checkpoint(step + 1)

    def finish(self, step: int) -> torch.Tensor:
        """Writes a checkpoint and all final files after `step` steps, at the end or where the run was stopped → the
        final images."""
        self.checkpoint(step)
        images = self.picture(step)
        for index, image in enumerate(images):
            write_atomic(self.folder / f"final_{index:02d}.png", to_pillow(image).save)
        write_atomic(self.folder / "final.png", self.sheet(images).save)
        for name, writer in self.representation.files().items():
            write_atomic(self.folder / name, writer)
        self.probe(step)
        self.draw_gradients()
        self.summarize()
        if self.tensorboard:
            self.tensorboard.close()
        return images

    def progress(self, step: int) -> str:
        """How far the run is, and how long the rest will take at the speed so far."""
        done, seconds = step - self.first, time.perf_counter() - self.start
        rest = f", {time_left(seconds / done * (self.steps - step))}" if done else ""
        return f"step {step} of {self.steps}{rest}"

    def summarize(self) -> None:
        """Writes the video and the page of the recorded pictures, if any."""
        pictures = [self.folder / "images" / f"step_{step:06d}.png" for step in steps_in(self.folder / "images")]
        if pictures:
            save_video(self.folder / "video.mp4", pictures, self.log.fps)
            if self.log.gif:
                save_gif(self.folder / "video.gif", pictures, self.log.fps)
            write_text(self.folder / "index.html", page(self.folder))

    # -------------------------------------------------------------------------------------------------------- numbers

    def flush(self) -> None:
        """Writes the pending steps. Raises FloatingPointError at the first with a value that is not finite."""
        lines = []
        try:
            for line, norms in self.pending:
                require_finite_step(norms, line["step"], line["particles"], line["t"], self.prior)
                if len(line["particles"]) == len(self.t):
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
        """Saves the state after `step` steps; the metrics up to it are written first."""
        self.flush()
        save_checkpoint(self.folder, step, self.t.tolist(), self.algorithm, self.optimizer)

    # ------------------------------------------------------------------------------------------------------- pictures

    def save(self, name: str, sheet: Image.Image, same: str | None = None) -> None:
        """Saves a sheet as DIR/name, and for TensorBoard. same: a file that already has this sheet."""
        if same:
            (self.folder / name).parent.mkdir(exist_ok=True)
            write_atomic(self.folder / name, lambda part: shutil.copyfile(self.folder / same, part))
        else:
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
        sources, columns, labels = self.algorithm.particles.source_images, self.columns, self.labels
        if sources is None:
            return grid(images, labels, columns, self.log.tile)
        rows, sources = images.cpu().unflatten(0, (-1, columns)), sources.cpu().unflatten(0, (-1, columns))
        if (sources == sources[:, :1]).all():
            rows = torch.cat([sources[:, :1], rows], 1)
        else:
            rows = torch.stack([sources, rows], 2).flatten(1, 2)
        before = self.algorithm.particles.source_prompts[::columns]
        labels = [f"{source} → {target}" for source, target in zip(before, labels, strict=True)]
        return grid(rows.flatten(0, 1), labels, rows.shape[1], self.log.tile)

    @torch.no_grad()
    def picture(self, step: int) -> torch.Tensor:
        """Records the images before step `step`, the representation's views and the scores → the images."""
        self.flush()
        images = self.representation.images().detach().clone()
        places = [f"before step {step}, particle {row}" for row in range(len(images))]
        require_finite(images.flatten(1).norm(dim=1), places, "decoded picture", self.prior)
        self.save(f"images/step_{step:06d}.png", self.sheet(images))
        # Also each by itself, for figures: PNGs would take ten times as long.
        pixels = torch.stack([to_pixels(image) for image in images])
        self.save_tensors(f"images/step_{step:06d}.safetensors", {"images": pixels})
        for name, (pictures, note) in self.representation.views(images).items():
            labels = [f"{note} · {label}" if note else label for label in self.labels]
            self.save(f"{name}/step_{step:06d}.png", grid(pictures, labels, self.columns, self.log.tile))
        if self.evaluator:
            self.append("scores.jsonl", [{"step": step, **self.evaluator.scores(images)}])
        return images

    def probe(self, step: int) -> None:
        """Records gradient and predictions at --log.timesteps: grids, rows timesteps, columns particles."""
        if not self.timesteps:
            return
        self.flush()
        with torch.no_grad():
            z = self.representation.latents()
        gradient, clean = probe(self.algorithm, z, self.timesteps, min(step, self.steps - 1) / self.steps)
        before = f"--log.timesteps before step {step}"
        places = [f"{before}, timestep {t}, particle {row}" for t in self.timesteps for row in range(len(z))]
        require_finite(gradient.flatten(1).norm(dim=1), places, "gradient", self.prior)
        labels = [f"t = {t}" for t in self.timesteps]
        self.maps(gradient, clean, labels, len(z), f"timesteps/{{}}_{step:06d}.png")

    @torch.no_grad()
    def maps(self, gradient: torch.Tensor, clean: dict, labels: list[str], columns: int, path: str) -> None:
        """Saves |g| and {name: clean latents} as grids, in the files path.format(name)."""
        norm = gradient.norm(dim=1).cpu()
        self.save(path.format("gradients"), self.heat_map(norm, labels, columns))
        sheets = {}
        for name, latents in clean.items():
            # SDS's pseudo ground truth is its prediction up to rounding: decode it and write the PNG only once.
            same = next((other for other in sheets if torch.allclose(clean[other], latents, atol=1e-3)), None)
            sheets[name] = sheets[same] if same else grid(self.prior.decode(latents), labels, columns, self.log.tile)
            self.save(path.format(name), sheets[name], same and path.format(same))
