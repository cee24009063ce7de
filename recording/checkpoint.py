"""checkpoint.pt: everything that a run needs to continue, bit-identical to an uninterrupted one.

It is read by torch.load with weights_only=True, which runs no code.
"""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from algorithms.method import Method
from errors import InputError, first_line
from recording.folder import write_atomic

NAME = "checkpoint.pt"


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def save_checkpoint(folder: Path, step: int, t: list[int], algorithm: Method, optimizer: torch.optim.Optimizer) -> None:
    """Saves the state before `step`. t: the timesteps of the previous step. Raises FloatingPointError if the state is
    not finite."""
    state = {
        "step": step,
        "parameters": [parameter.detach() for parameter in parameters(optimizer)],
        "optimizer": optimizer.state_dict(),
        "algorithm": algorithm.state_dict(),
        "particles": algorithm.particles.state_dict(),
    }
    require_finite_state(state, step - 1, t)
    buffer = io.BytesIO()
    torch.save(canonical(state), buffer)

    def write(path):
        with open(path, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # If the machine crashes, no truncated file may have the final name.

    write_atomic(folder / NAME, write)


def load_checkpoint(folder: Path, steps: int, algorithm: Method, optimizer: torch.optim.Optimizer) -> int:
    """Loads the last checkpoint into the parts of a run of `steps` steps → the step to continue with; 0 without a
    checkpoint.

    Raises InputError if the file is damaged or belongs to another run.
    """
    file = folder / NAME
    if not os.path.lexists(file):
        return 0
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        for parameter, value in zip(parameters(optimizer), state["parameters"], strict=True):
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise ValueError(f"parameters of shape {list(value.shape)} instead of {list(parameter.shape)}")
            parameter.data.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        algorithm.load_state_dict(state["algorithm"])
        algorithm.particles.load_state_dict(state["particles"])
        if type(state["step"]) is not int or not 0 <= state["step"] <= steps or len(state) > 5:
            raise ValueError(f"{sorted(state)} at step {state['step']}; the run has {steps} steps")
        return state["step"]
    except Exception as error:  # A damaged file can raise anything; name the file.
        raise InputError(f"{file} is not a checkpoint of this run: {first_line(error)}") from error


def canonical(state: Any) -> Any:
    """The same state with its strings interned: otherwise pickle would write different bytes after a resume."""
    if isinstance(state, dict):
        return {sys.intern(key) if isinstance(key, str) else key: canonical(value) for key, value in state.items()}
    return type(state)(map(canonical, state)) if isinstance(state, list | tuple) else state


def tensors(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) for each tensor in nested dictionaries and lists."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors(value, f"{name}.{key}" if name else str(key))


def require_finite_state(state: dict, step: int, t: list[int]) -> None:
    """Raises FloatingPointError if `step` left a state that is not finite: Adam stops silently if a square is inf."""
    for name, value in tensors(state):
        finite = value.isfinite()
        if not finite.all():
            place = "all particles"
            if value.shape[:1] == (len(t),) and not name.startswith("algorithm"):  # one row per particle
                row = finite.flatten(1).all(1).tolist().index(False)
                place = f"timestep {t[row]}, particle {row}"
            message = "use a lower learning rate, guidance scale or weight"
            raise FloatingPointError(f"step {step}, {place}: the state {name} is not finite; {message}")
