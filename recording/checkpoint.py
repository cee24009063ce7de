"""checkpoint.safetensors: all that a run needs to go on as if it had never stopped.

Tensors only, and read by a format that can hold nothing else: opening a checkpoint runs no code.
"""

import contextlib
import os

from prior import InputError, first_line
from recording.files import write

NAME = "checkpoint.safetensors"


def tensors(optimizers, particles):
    """{name: tensor} of all parameters, of what the optimizers know about each, and of every generator."""
    found = {}
    for i, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for j, parameter in enumerate(parameters):
            found[f"{i}.{j}"] = parameter.detach()
            for name, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    found[f"{i}.{j}.{name}"] = value
    for row, generator in enumerate([*particles.generators, particles.shared_generator]):
        found[f"generator.{row}"] = generator.get_state()
    return found


def save(folder, step, optimizers, particles):
    """The state before `step`. Raises FloatingPointError rather than keep a number that is not finite."""
    from safetensors.torch import save as serialize

    state = {name: value.cpu().contiguous() for name, value in tensors(optimizers, particles).items()}
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(f"{name} of the optimizer's state is not finite after step {step - 1}; "
                                     "a lower learning rate, guidance scale or weight is needed")  # fmt: skip
    content = serialize(state, {"step": str(step)})

    def store(beside):
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # A machine that stops must not leave a new name with an old disk's bytes.

    write(folder / NAME, store)


def restore(folder, optimizers, particles):
    """Puts a checkpoint's state into freshly built parts → the step to go on with; 0, and nothing is touched, if there is none.

    Raises InputError for a file that is damaged or belongs to another run.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / NAME
    if not os.path.lexists(file):
        return 0
    try:
        with safe_open(file, "pt") as opened:
            step = (opened.metadata() or {}).get("step", "")
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} can not be read: {first_line(error)}") from error
    if not step.isdecimal():
        raise InputError(f"{file} does not say which step it is of")
    with mismatch(file):
        for i, optimizer in enumerate(optimizers):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            known = {}
            for j, parameter in enumerate(parameters):
                value = state.pop(f"{i}.{j}")
                if value.shape != parameter.shape or value.dtype != parameter.dtype:
                    raise ValueError(f"{i}.{j} is {list(value.shape)}, {list(parameter.shape)} is needed")
                parameter.data.copy_(value)
                known[j] = {name.split(".", 2)[2]: state.pop(name) for name in [*state] if name.startswith(f"{i}.{j}.")}
                if any(value.dim() and value.shape != parameter.shape for value in known[j].values()):
                    raise ValueError(f"what it knows of {i}.{j} has another shape")
            known = {j: values for j, values in known.items() if values}
            optimizer.load_state_dict({"state": known, "param_groups": optimizer.state_dict()["param_groups"]})
        for row, generator in enumerate([*particles.generators, particles.shared_generator]):
            generator.set_state(state.pop(f"generator.{row}"))
        if state:
            raise ValueError(f"{min(state)} is not known")
    return int(step)


@contextlib.contextmanager
def mismatch(file):
    try:
        yield
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{file} is no checkpoint of this run ({first_line(error)})") from error
