"""Going on with a run: its folder as it was at the last checkpoint."""

import sys

from prior import InputError
from recording.checkpoint import NAME
from recording.files import cut_back, write_text
from recording.made_with import differences, made_with
from settings.stored import dump


def go_on(folder, config, then, prior, checkpoints):
    """Puts the folder, and the parts that were built anew, back to the last checkpoint → the step to go on with.

    then: what the run was made with. Raises InputError, and touches nothing, where that was another prior or other pictures.
    """
    other, small = differences(then, made_with(prior, config))
    if other:
        raise InputError(f"--resume {folder}: {other[0]}; --config {folder}/config.yaml begins anew with what is there")
    for line in small:
        print(f"warning: {line}; the last bits of the results may differ", file=sys.stderr)
    step = checkpoints.restore()
    if step > config.steps:
        raise InputError(f"{folder / NAME} is of step {step}, the run has {config.steps}")
    cut_back(folder, step)
    write_text(folder / "config.yaml", dump(config, then))  # --steps may have grown.
    return step
