"""Everything that a run leaves on disk. Files appear whole or not at all: written beside, then renamed."""

import json
import sys
from dataclasses import dataclass

import torch

from recording.files import write, write_text
from recording.finite import Watch, not_finite
from recording.look import look, predictions
from recording.pictures import grid, heat_grid, to_pillow
from recording.video import save_video


@dataclass
class LogConfig:
    every: int | None = None
    """Steps between two looks at the run: its picture, its gradient, the clean image that the prior predicts, its scores, and
    a frame of the video. They set the price of recording. None: a tenth of the run, but 5 at least."""
    timesteps: tuple[float, ...] = (100, 500, 900)
    """Where else the gradient and the predictions are looked at, whatever t a step has: timesteps, or as fractions of T up
    to 1. Each costs what a step costs."""
    timesteps_every: int | None = None
    """Steps between two such looks, beside the one at the end. None: at the end alone."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints, from which --resume goes on; there is one at the end, too. None: as log.every."""
    fps: int = 10
    """Frames a second of the video."""
    tile: int = 192
    """Least width of one picture in a grid, in pixels; smaller ones are enlarged by a whole factor."""


class Recorder:
    """Writes one run's folder, which is there already; README says what is in it.

    timesteps: those of --log.timesteps, as the prior and the method can take them.
    evaluator: what scores the pictures (evaluation.Evaluator), or None.
    """

    def __init__(self, folder, config, algorithm, representation, checkpoints, timesteps, evaluator=None):
        self.folder, self.log, self.evaluator, self.checkpoints = folder, config.log, evaluator, checkpoints
        self.timesteps = timesteps
        self.algorithm, self.representation, self.prior = algorithm, representation, algorithm.prior
        self.labels, self.columns, self.steps = config.prompt, config.particles, config.steps
        self.checkpoint_every = config.log.checkpoint_every or config.log.every
        self.watch = Watch(checkpoints.optimizers, self.prior, len(algorithm.particles))
        self._pending, self._warned, self._t = [], False, [0] * len(algorithm.particles)
        self._metrics, self._scores = open_lines(folder / "metrics.jsonl"), None
        if evaluator:
            self._scores = open_lines(folder / "scores.jsonl")

    def due(self, step):
        return step % self.log.every == 0

    # ----------------------------------------------------------------------------------------------- a step's numbers

    def metrics(self, step, t, weight, z, gradient, seconds):
        """Notes one step; on a GPU tensors stay there until flush(), so that no step waits for it."""
        self._pending.append((step, t, weight, self.watch.norms(z, gradient), seconds))
        if self.prior.device.type == "cpu":
            self.flush()

    def flush(self):
        """Writes the noted steps. Raises FloatingPointError at the first that has something that is not finite."""
        noted, self._pending = self._pending, []
        try:
            for step, t, weight, norms, seconds in noted:
                self._t = t.tolist()
                self.watch.check(norms, step, self._t)
                norm = norms["gradient"].tolist()
                line = dict(step=step, t=self._t, weight=weight.tolist(), grad_norm=norm, seconds=round(seconds, 6))
                self._metrics.write(json.dumps(line) + "\n")
        finally:
            self._metrics.flush()

    # ---------------------------------------------------------------------------------------------------- its pictures

    def save(self, name, sheet):
        """A sheet as DIR/name, in the least of PNG's efforts: its time is the run's."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        write(path, lambda beside: sheet.save(beside, compress_level=1))

    def sheet(self, images):
        """Rows of prompts, columns of particles; in an edit each row's source before it, or each particle's before each."""
        sources, columns, labels = self.algorithm.particles.source_images, self.columns, self.labels
        if sources is None:
            return grid(images, labels, columns, self.log.tile)
        rows, their_sources = images.cpu().unflatten(0, (-1, columns)), sources.cpu().unflatten(0, (-1, columns))
        if (their_sources == their_sources[:, :1]).all():
            rows = torch.cat([their_sources[:, :1], rows], 1)
        else:
            rows = torch.stack([their_sources, rows], 2).flatten(1, 2)
        before = self.algorithm.particles.source_prompts[::columns]
        labels = [f"{source} → {target}" for source, target in zip(before, labels, strict=True)]
        return grid(rows.flatten(0, 1), labels, rows.shape[1], self.log.tile)

    def picture(self, step):
        """The pictures as they stand before step `step`, what the representation shows of itself, their scores → the images."""
        self.flush()
        images = self.representation.images().detach().clone()
        norms = images.flatten(1).norm(dim=1)
        not_finite(norms, lambda particle: f"before step {step}, particle {particle}", "decoded picture", self.prior)
        self.save(f"images/step_{step:06d}.png", self.sheet(images))
        for name, (pictures, note) in self.representation.views(images).items():
            labels = [f"{note} · {label}" if note else label for label in self.labels]
            self.save(f"{name}/step_{step:06d}.png", grid(pictures, labels, self.columns, self.log.tile))
        if self.evaluator:
            line = {"step": step, **self.evaluator.scores(images)}
            self._scores.write(json.dumps(line) + "\n")
            self._scores.flush()
        return images

    def maps(self, step, z, t, gradient):
        """The step's gradient, where it points, and the clean images that the prior predicted in it, as prior.notes heard."""
        rows = t.unflatten(0, (-1, self.columns)).tolist()
        labels = [
            f"{label} · t = {' '.join(map(str, dict.fromkeys(row)))}"
            for label, row in zip(self.labels, rows, strict=True)
        ]
        seen = predictions(self.prior, len(t)) | {"pseudo_gt": self.algorithm.points_at(z, t, gradient)}
        self.show(gradient, seen, labels, self.columns, lambda name: f"{name}/step_{step:06d}.png")

    def other_timesteps(self, step):
        """The same at the timesteps that --log.timesteps names: grids, rows timesteps, columns particles."""
        if self.timesteps:
            z = self.representation.latents().detach()
            gradient, seen = look(self.algorithm, z, self.timesteps, min(step, self.steps - 1) / self.steps)
            for timestep, norms in zip(
                self.timesteps, gradient.flatten(1).norm(dim=1).unflatten(0, (-1, len(z))), strict=True
            ):
                place = f"--log.timesteps before step {step}, timestep {timestep}"
                not_finite(norms, lambda particle, place=place: f"{place}, particle {particle}", "gradient", self.prior)
            labels = [f"t = {t}" for t in self.timesteps]
            self.show(gradient, seen, labels, len(z), lambda name: f"timesteps/{name}_{step:06d}.png")

    def show(self, gradient, seen, labels, columns, place):
        """|g| and {name: clean latents} as grids, each in the file place(name)."""
        self.save(place("gradients"), heat_grid(gradient.norm(dim=1).cpu(), labels, columns, self.log.tile))
        decoded = {}
        for name, clean in seen.items():
            # SDS points at what the prior predicts: the same latents up to rounding need no second decoding.
            like = [other for other in decoded if torch.allclose(seen[other], clean, atol=1e-3)]
            with torch.no_grad():
                decoded[name] = decoded[like[0]] if like else self.prior.decode(clean)
            if not self._warned and not decoded[name].isfinite().all():
                print(
                    f"warning: {place(name)}: not all can be decoded in {self.prior.dtype}; that is magenta",
                    file=sys.stderr,
                )
                self._warned = True
            self.save(place(name), grid(decoded[name], labels, columns, self.log.tile))

    # ------------------------------------------------------------------------------------------------- the loop's calls

    def before(self, step):
        """Called before each step: the pictures that are due → the images (B, 3, H, W) that were taken, or None."""
        self.prior.notes = None
        if not self.due(step):
            return None
        with torch.no_grad():
            images = self.picture(step)
        if self.log.timesteps_every and step and step % self.log.timesteps_every == 0:
            self.other_timesteps(step)
        self.prior.notes = {}
        return images

    def after(self, step, z, t, weight, gradient, seconds):
        """Called after each step with what it saw: the numbers, maps and a checkpoint where they are due."""
        self.metrics(step, t, weight, z, gradient, seconds)
        if self.prior.notes is not None:
            self.flush()  # A gradient that is not finite has no map.
            self.maps(step, z, t, gradient)
            self.prior.notes = None
        if (step + 1) % self.checkpoint_every == 0 and step + 1 < self.steps:
            self.checkpoint(step + 1)

    def checkpoint(self, step):
        """The state after `step` steps. The lines of metrics before it are on the disk first."""
        self.flush()
        self.checkpoints.save(step, self._t)

    def finish(self, step, repeat):
        """After `step` steps, the last or where the run was asked to stop: a checkpoint, the last pictures, the
        representation's own files, the page → the final images. repeat: the flags that repeat the run."""
        self.checkpoint(step)
        with torch.no_grad():
            images = self.picture(step)
        for name, writer in self.representation.files().items():
            write(self.folder / name, writer)
        for index, image in enumerate(images):
            write(self.folder / f"final_{index:02d}.png", to_pillow(image).save)
        write(self.folder / "final.png", self.sheet(images).save)
        self.other_timesteps(step)
        self.summarize(repeat)
        return images

    def summarize(self, repeat):
        """The video and the page of the pictures that are on the disk, if there are any."""
        from recording.page import page, steps_in

        pictures = [self.folder / "images" / f"step_{step:06d}.png" for step in steps_in(self.folder / "images")]
        if pictures:
            save_video(self.folder / "video.mp4", pictures, self.log.fps)
            write_text(self.folder / "index.html", page(self.folder, repeat))

    def close(self):
        self.prior.notes = None
        self._metrics.close()
        if self._scores:
            self._scores.close()


def open_lines(file):
    return open(file, "a", encoding="utf-8")
