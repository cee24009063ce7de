"""Everything that a run leaves on disk. Files appear whole or not at all: written beside, then renamed."""

import json
import os
from dataclasses import asdict, dataclass

from prior import InputError
from recording.look import look, named_timesteps, predictions
from recording.pictures import grid, heat_grid, to_pillow, video_frame


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
    fps: int = 10
    """Frames a second of the video."""
    tile: int = 192
    """Least width of one picture in a grid, in pixels; smaller ones are enlarged by a whole factor."""


def write(path, writer):
    """writer(beside) must make the file `beside`, which then takes the place of `path` at once."""
    beside = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        writer(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


class Recorder:
    """Writes one run's folder; README says what is in it.

    evaluator: what scores the pictures (evaluation.Evaluator), or None.
    """

    def __init__(self, folder, config, algorithm, representation, evaluator=None):
        import imageio
        import yaml

        self.folder, self.log, self.evaluator = folder, config.log, evaluator
        self.algorithm, self.representation, self.prior = algorithm, representation, algorithm.prior
        self.labels, self.columns, self.steps = config.prompt, config.particles, config.steps
        self.timesteps = named_timesteps(config.log.timesteps, algorithm)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"--out {folder} can not be made: {error.strerror}") from error
        # A round trip through JSON turns tuples into the lists that YAML has.
        settings = json.loads(json.dumps(asdict(config), default=str))
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        write(folder / "config.yaml", lambda beside: beside.write_text(text, encoding="utf-8"))
        self._metrics = open(folder / "metrics.jsonl", "w", encoding="utf-8")
        self._scores = open(folder / "scores.jsonl", "w", encoding="utf-8") if evaluator else None
        self._pending = []
        # Frames go to the encoder as they come; nothing of the video is kept in memory.
        self._video_part = folder / ".video.part.mp4"
        self._video = imageio.get_writer(self._video_part, fps=config.log.fps, codec="libx264", macro_block_size=2, quality=8)

    def due(self, step):
        return step % self.log.every == 0

    # ----------------------------------------------------------------------------------------------- a step's numbers

    def metrics(self, step, t, weight, gradient, seconds):
        """Notes one step; tensors stay on their device until flush(), so that no step waits for the GPU."""
        self._pending.append((step, t, weight, gradient.flatten(1).norm(dim=1), seconds))

    def flush(self):
        """Writes the noted steps. Raises FloatingPointError at the first gradient that is not finite."""
        noted, self._pending = self._pending, []
        for step, t, weight, norm, seconds in noted:
            t, weight, norm = t.tolist(), weight.tolist(), norm.tolist()
            for particle, value in enumerate(norm):
                if not abs(value) < float("inf"):
                    raise FloatingPointError(
                        f"the gradient is not finite at step {step}, timestep {t[particle]}, particle {particle}: "
                        "float16 may overflow (--prior.dtype float32 or bfloat16), or the learning rate is too high"
                    )
            line = dict(step=step, t=t, weight=weight, grad_norm=norm, seconds=round(seconds, 6))
            self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()

    # ---------------------------------------------------------------------------------------------------- its pictures

    def save(self, name, sheet):
        """A sheet as DIR/name, in the least of PNG's efforts: its time is the run's."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        write(path, lambda beside: sheet.save(beside, compress_level=1))

    def sheet(self, images):
        """Rows of prompts, columns of particles; in an edit each row's source before it, or each particle's before each."""
        import torch

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
        sheet = self.sheet(images)
        self.save(f"images/step_{step:06d}.png", sheet)
        self._video.append_data(video_frame(sheet))
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
        labels = [f"{label} · t = {' '.join(map(str, dict.fromkeys(row)))}" for label, row in zip(self.labels, rows, strict=True)]
        seen = predictions(self.prior, len(t)) | {"pseudo_gt": self.algorithm.points_at(z, t, gradient)}
        self.show(gradient, seen, labels, self.columns, lambda name: f"{name}/step_{step:06d}.png")

    def other_timesteps(self, step):
        """The same at the timesteps that --log.timesteps names: grids, rows timesteps, columns particles."""
        if self.timesteps:
            z = self.representation.latents().detach()
            gradient, seen = look(self.algorithm, z, self.timesteps, min(step, self.steps - 1) / self.steps)
            labels = [f"t = {t}" for t in self.timesteps]
            self.show(gradient, seen, labels, len(z), lambda name: f"timesteps/{name}_{step:06d}.png")

    def show(self, gradient, seen, labels, columns, place):
        """|g| and {name: clean latents} as grids, each in the file place(name)."""
        import torch

        self.save(place("gradients"), heat_grid(gradient.norm(dim=1).cpu(), labels, columns, self.log.tile))
        decoded = {}
        for name, clean in seen.items():
            # SDS points at what the prior predicts: the same latents up to rounding need no second decoding.
            like = [other for other in decoded if torch.allclose(seen[other], clean, atol=1e-3)]
            with torch.no_grad():
                decoded[name] = decoded[like[0]] if like else self.prior.decode(clean)
            self.save(place(name), grid(decoded[name], labels, columns, self.log.tile))

    # ------------------------------------------------------------------------------------------------- the loop's calls

    def before(self, step):
        """Called before each step: the pictures that are due → the images (B, 3, H, W) that were taken, or None."""
        import torch

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
        """Called after each step with what it saw: the numbers, and maps where they are due."""
        self.metrics(step, t, weight, gradient, seconds)
        if self.prior.notes is not None:
            self.flush()  # A gradient that is not finite has no map.
            self.maps(step, z, t, gradient)
            self.prior.notes = None

    def finish(self, command):
        """The last pictures, the representation's own files, the end of the video, the page → the final images."""
        import torch

        from recording.page import page

        with torch.no_grad():
            images = self.picture(self.steps)
        self.other_timesteps(self.steps)
        for name, writer in self.representation.files().items():
            write(self.folder / name, writer)
        write(self.folder / "final.png", self.sheet(images).save)
        for index, image in enumerate(images):
            write(self.folder / f"final_{index:02d}.png", to_pillow(image).save)
        self.close()
        os.replace(self._video_part, self.folder / "video.mp4")
        text = page(self.folder, command)
        write(self.folder / "index.html", lambda beside: beside.write_text(text, encoding="utf-8"))
        return images

    def close(self):
        self.prior.notes = None
        self._video.close()
        self._metrics.close()
        if self._scores:
            self._scores.close()

    def abandon(self):
        """Ends a run that failed: no half-written video stays behind."""
        try:
            self.close()
        finally:
            self._video_part.unlink(missing_ok=True)
