"""checkpoint.pt: everything that a run needs to continue, bit-identical to an uninterrupted one.

It is read by torch.load with weights_only=True, which runs no code.
"""

import functools
import io
import os
from pathlib import Path
from typing import Any

import torch

from algorithms.method import Method
from errors import InputError, first_line
from recording.folder import write_atomic

NAME = "checkpoint.pt"


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def save_checkpoint(folder: Path, step: int, parts: Any) -> None:
    """Saves the state of a run's Parts, what sds2d.build() returned, before `step`."""
    state = {
        "step": step,
        "parameters": [parameter.detach() for parameter in parameters(parts.optimizer)],
        "optimizer": parts.optimizer.state_dict(),
        "algorithm": parts.algorithm.state_dict(),
        "particles": parts.particles.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)

    def write(path):
        with open(path, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # If the machine crashes, no truncated file may have the final name.

    write_atomic(folder / NAME, write)


def load_checkpoint(folder: Path, steps: int, parts: Any) -> int:
    """Loads the last checkpoint into the Parts of a run of `steps` steps → the step to continue with; 0 without a
    checkpoint.

    Raises InputError if the file is damaged or belongs to another run.
    """
    file = folder / NAME
    if not os.path.lexists(file):
        return 0
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        for parameter, value in zip(parameters(parts.optimizer), state["parameters"], strict=True):
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise ValueError(f"parameters of shape {list(value.shape)} instead of {list(parameter.shape)}")
            parameter.data.copy_(value)
        parts.optimizer.load_state_dict(state["optimizer"])
        parts.algorithm.load_state_dict(state["algorithm"])
        parts.particles.load_state_dict(state["particles"])
        if type(state["step"]) is not int or not 0 <= state["step"] <= steps or len(state) > 5:
            raise ValueError(f"{sorted(state)} at step {state['step']}; the run has {steps} steps")
        return state["step"]
    except Exception as error:  # A damaged file can raise anything; name the file.
        raise InputError(f"{file} is not a checkpoint of this run: {first_line(error)}") from error


class Unsaved:
    """What a method keeps besides buffers, parameters and `optimizer`, as it was at the start of the run. PyTorch does
    not save it, so it must not change."""

    def __init__(self, algorithm: Method):
        self.algorithm = algorithm
        self.kept = []  # so that no other object gets the id of one of these
        self.before = {name: self.snapshot(value) for name, value in self.attributes()}

    def attributes(self) -> list[tuple[str, Any]]:
        cls = type(self.algorithm)
        if cls.get_extra_state is not Method.get_extra_state:
            return []  # It says itself what is saved.
        lazy = {name for name in dir(cls) if isinstance(getattr(cls, name), functools.cached_property)}
        known = {*self.algorithm.configured, *lazy, "optimizer"}
        return [(name, value) for name, value in vars(self.algorithm).items() if name not in known]

    def snapshot(self, value: Any) -> Any:
        """Differs once the value has: containers by content, numbers and texts by value, tensors by identity and
        version, other objects by identity."""
        if isinstance(value, dict):
            return {key: self.snapshot(part) for key, part in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.snapshot(part) for part in value]
        if isinstance(value, int | float | str | None):
            return value
        self.kept.append(value)
        return id(value), value._version if isinstance(value, torch.Tensor) else 0

    def require_unchanged(self) -> None:
        """Raises InputError for the first attribute that has changed since the start, or is new."""
        for name, value in self.attributes():
            if name not in self.before or self.snapshot(value) != self.before[name]:
                place = f"{type(self.algorithm).__name__}.{name}"
                raise InputError(
                    f"{place} changes during the run, and no checkpoint would have it: make it a tensor, by "
                    f'self.register_buffer("{name}", …) in __init__, or save it in get_extra_state'
                )
