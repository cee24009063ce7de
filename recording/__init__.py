"""Everything that a run leaves on disk. Files appear whole or not at all: written beside, then renamed."""

import json
import os
from dataclasses import asdict, dataclass

from prior import InputError
from recording.pictures import grid, to_pillow, video_frame


@dataclass
class LogConfig:
    every: int | None = None
    """Steps between pictures of the run (images/ and frames of the video). None: a fortieth of the run."""
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
    """Writes one run's folder: config.yaml, metrics.jsonl, images/, video.mp4, final.png, final_00.png ….

    labels: one a row of the grid, `columns` particles each.
    """

    def __init__(self, folder, config, labels, columns):
        import imageio
        import yaml

        self.folder, self.log, self.labels, self.columns = folder, config.log, labels, columns
        try:
            (folder / "images").mkdir(parents=True)
        except OSError as error:
            raise InputError(f"--out {folder} can not be made: {error.strerror}") from error
        # A round trip through JSON turns tuples into the lists that YAML has.
        settings = json.loads(json.dumps(asdict(config), default=str))
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        write(folder / "config.yaml", lambda beside: beside.write_text(text, encoding="utf-8"))
        self._metrics = open(folder / "metrics.jsonl", "w", encoding="utf-8")
        self._pending = []
        # Frames go to the encoder as they come; nothing of the video is kept in memory.
        self._video_part = folder / ".video.part.mp4"
        self._video = imageio.get_writer(self._video_part, fps=config.log.fps, codec="libx264", macro_block_size=2, quality=8)

    def due(self, step):
        return step % self.log.every == 0

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

    def picture(self, step, images, views):
        """The grid as it stands before step `step`, in images/ and as a frame; the representation's views in folders of their own."""
        sheet = grid(images, self.labels, self.columns, self.log.tile)
        write(self.folder / "images" / f"step_{step:06d}.png", sheet.save)
        self._video.append_data(video_frame(sheet))
        for name, (pictures, note) in views.items():
            (self.folder / name).mkdir(exist_ok=True)
            labels = [f"{note} · {label}" if note else label for label in self.labels]
            write(self.folder / name / f"step_{step:06d}.png", grid(pictures, labels, self.columns, self.log.tile).save)

    def finish(self, step, images, views, files):
        """The last picture, the final images, the representation's own files, the end of the video."""
        self.flush()
        self.picture(step, images, views)
        for name, writer in files.items():
            write(self.folder / name, writer)
        write(self.folder / "final.png", grid(images, self.labels, self.columns, self.log.tile).save)
        for index, image in enumerate(images):
            write(self.folder / f"final_{index:02d}.png", to_pillow(image).save)
        self._video.close()
        os.replace(self._video_part, self.folder / "video.mp4")
        self._metrics.close()

    def abandon(self):
        """Ends a run that failed: no half-written video stays behind."""
        self._metrics.close()
        try:
            self._video.close()
        finally:
            self._video_part.unlink(missing_ok=True)
