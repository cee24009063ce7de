"""checkpoint.pt: everything that a run needs to continue, bit-identical to an uninterrupted one.

It is read by torch.load with weights_only=True, which runs no code.
"""

import io
import os
from pathlib import Path

import torch

from algorithms.method import Method
from errors import InputError, first_line
from recording.folder import write_atomic

NAME = "checkpoint.pt"


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def save_checkpoint(folder: Path, step: int, algorithm: Method, optimizer: torch.optim.Optimizer) -> None:
    """Saves the state before `step`."""
    state = {
        "step": step,
        "parameters": [parameter.detach() for parameter in parameters(optimizer)],
        "optimizer": optimizer.state_dict(),
        "algorithm": algorithm.state_dict(),
        "particles": algorithm.particles.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)

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
