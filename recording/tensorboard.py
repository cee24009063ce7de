"""--log.tensorboard: the numbers and the grids of a run as TensorBoard events, in its folder."""

import re
from pathlib import Path

import numpy as np
from PIL import Image


class TensorBoard:
    """Scalars by particle, and an image a grid, each at its step. Opened at the first of them: what an earlier process
    wrote from that step on is void."""

    def __init__(self, folder: Path):
        self.folder, self.writer = folder / "tensorboard", None

    def at(self, step: int):
        from torch.utils.tensorboard import SummaryWriter  # An optional package.

        self.writer = self.writer or SummaryWriter(str(self.folder), purge_step=step)
        return self.writer

    def add_grid(self, name: str, sheet: Image.Image) -> None:
        """A grid that is saved as name, "images/step_000100.png"."""
        tag, step = re.fullmatch(r"(.+?)(?:/step)?_(\d+)\.png", name).groups()
        self.at(int(step)).add_image(tag, np.asarray(sheet), int(step), dataformats="HWC")

    def add_line(self, line: dict) -> None:
        """A line of metrics.jsonl or scores.jsonl; a list has a number a particle."""
        step, particles = line["step"], line.get("particles")
        for name, values in line.items():
            if name in ("step", "particles"):
                continue
            if not isinstance(values, list):
                values, tags = [values], [name]
            else:
                tags = [f"{name}/{particle}" for particle in particles or range(len(values))]
            for tag, value in zip(tags, values, strict=True):
                self.at(step).add_scalar(tag, value, step)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
