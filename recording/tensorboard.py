"""--log.tensorboard: the numbers and the grids of a run as TensorBoard events, in its folder."""

import re
from pathlib import Path

import numpy as np
from PIL import Image


def open_writer(folder: Path, step: int):
    """The writer of a run that starts at `step`. Discards what an earlier process wrote from that step on."""
    from torch.utils.tensorboard import SummaryWriter  # an optional package

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


def add_sheet(writer, name: str, sheet: Image.Image) -> None:
    """Adds a grid that is saved as `name`, such as "images/step_000100.png"."""
    tag, step = re.fullmatch(r"(.+?)(?:/step)?_(\d+)\.png", name).groups()
    writer.add_image(tag, np.asarray(sheet), int(step), dataformats="HWC")


def add_numbers(writer, lines: list[dict]) -> None:
    """Adds lines of metrics.jsonl or scores.jsonl; a list has one number per particle."""
    for line in lines:
        for name, values in line.items():
            if isinstance(values, list) and name != "particles":
                for particle, value in zip(line.get("particles", range(len(values))), values, strict=True):
                    writer.add_scalar(f"{name}/{particle}", value, line["step"])
        if "seconds" in line:
            writer.add_scalar("seconds", line["seconds"], line["step"])
