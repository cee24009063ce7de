"""Going on with a run: its folder as it was at the last checkpoint."""

from errors import InputError
from recording.checkpoint import NAME
from recording.files import cut_back, write_text


def go_on(folder, config, checkpoints, steps):
    """Puts the folder, and the parts that were built anew, back to the last checkpoint → the step to go on with.

    config: the text of its config.yaml, whose `steps` may have grown.
    """
    step = checkpoints.restore()
    if step > steps:
        raise InputError(f"{folder / NAME} is of step {step}, the run has {steps}")
    cut_back(folder, step)
    write_text(folder / "config.yaml", config)
    return step
