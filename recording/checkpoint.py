"""checkpoint.safetensors: all that a run needs to go on as if it had never stopped.

Tensors only, and read by a format that can hold nothing else: opening a checkpoint runs no code.
"""

import os

from errors import InputError, first_line
from recording.files import write

NAME = "checkpoint.safetensors"
# What an optimizer knows of each parameter after its first step.
MEMORY = {"Adam": {"step", "exp_avg", "exp_avg_sq"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": set()}


class Checkpoints:
    """A run's checkpoints in its folder, of the representation's optimizer and of the algorithm, as they are built."""

    def __init__(self, folder, optimizer, algorithm):
        self.folder, self.algorithm, self.particles = folder, algorithm, algorithm.particles
        self.optimizers = [optimizer, *algorithm.optimizers()]
        self.built = dict(vars(algorithm))

    def generators(self):
        return [*self.particles.generators, self.particles.shared_generator]

    def state(self):
        """{name: tensor} of all parameters, of what the optimizers know of each, of every generator, and of what the method
        remembers."""
        found = {}
        for i, optimizer in enumerate(self.optimizers):
            for j, parameter in enumerate(parameters(optimizer)):
                found[f"{i}.{j}"] = parameter.detach()
                for name, value in optimizer.state.get(parameter, {}).items():
                    if value is not None:
                        found[f"{i}.{j}.{name}"] = value
        for row, generator in enumerate(self.generators()):
            found[f"generator.{row}"] = generator.get_state()
        for name in self.algorithm.remembers:
            if getattr(self.algorithm, name) is not None:
                found[f"method.{name}"] = getattr(self.algorithm, name)
        return found

    def save(self, step, t):
        """The state before `step`; t, a list: the timesteps of the step before.

        Raises FloatingPointError rather than keep a number that is not finite, and TypeError for a method that has changed in a
        way that no checkpoint would know of.
        """
        from safetensors.torch import save as serialize

        for name, value in vars(self.algorithm).items():
            if value is not self.built.get(name) and name not in self.algorithm.remembers:
                raise TypeError(
                    f"{type(self.algorithm).__name__}.{name} changes along the run: `remembers` must name it, or a "
                    "resumed run would not know it"
                )
        state = {name: value.cpu().contiguous() for name, value in self.state().items()}
        require_finite(state, step - 1, t)
        content = serialize(state, {"step": str(step)})

        def store(beside):
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # A machine that stops must not leave a new name with an old disk's bytes.

        write(self.folder / NAME, store)

    def restore(self):
        """Puts the last checkpoint's state into the parts → the step to go on with; 0, and nothing is touched, if there is none.

        Raises InputError for a file that is damaged or belongs to another run.
        """
        from safetensors import SafetensorError, safe_open

        file = self.folder / NAME
        if not os.path.lexists(file):
            return 0
        if not file.is_file():
            raise InputError(f"{file} can not be read: it is no file")
        try:
            with safe_open(file, "pt") as opened:
                step = (opened.metadata() or {}).get("step", "")
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file} can not be read: {first_line(error)}") from error
        if not step.isdecimal() or len(step) > 12:
            raise InputError(f"{file} does not say which step it is of")
        try:
            self.put(state, int(step))
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise InputError(f"{file} is no checkpoint of this run ({first_line(error)})") from error
        return int(step)

    def put(self, state, step):
        """Raises one of several errors where the state, which it uses up, is not one of this run."""
        for i, optimizer in enumerate(self.optimizers):
            known = {}
            for j, parameter in enumerate(parameters(optimizer)):
                value = state.pop(f"{i}.{j}")
                if value.shape != parameter.shape or value.dtype != parameter.dtype:
                    raise ValueError(f"{i}.{j} is {list(value.shape)}, {list(parameter.shape)} is needed")
                parameter.data.copy_(value)
                known[j] = {name.split(".", 2)[2]: state.pop(name) for name in [*state] if name.startswith(f"{i}.{j}.")}
                if step and known[j].keys() != MEMORY[type(optimizer).__name__]:
                    raise ValueError(f"what the optimizer knows of {i}.{j} is not all there")
                if any(value.shape != (parameter.shape if name != "step" else ()) for name, value in known[j].items()):
                    raise ValueError(f"what the optimizer knows of {i}.{j} has another shape")
            known = {j: values for j, values in known.items() if values}
            optimizer.load_state_dict({"state": known, "param_groups": optimizer.state_dict()["param_groups"]})
        for row, generator in enumerate(self.generators()):
            generator.set_state(state.pop(f"generator.{row}"))
        for name in self.algorithm.remembers:
            value = state.pop(f"method.{name}", None)
            setattr(self.algorithm, name, None if value is None else value.to(self.particles.device))
        if state:
            raise ValueError(f"{min(state)} is not known")


def require_finite(state, step, t):
    """Raises FloatingPointError for what `step`, at timesteps t, has left behind: Adam, for one, stands still once it has seen
    a gradient whose square is infinite, and nobody would know."""
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            place = f"step {step}, all particles"
            if name.startswith("0.") and value.shape[:1] == (len(t),):  # of the representation, a row a particle
                row = value.isfinite().flatten(1).all(1).tolist().index(False)
                place = f"step {step}, timestep {t[row]}, particle {row}"
            who = "method" if name.startswith("method.") else "optimizer"
            raise FloatingPointError(
                f"{place}: {name.split('.')[-1]}, which the {who} remembers, is not finite; "
                "a lower learning rate, guidance scale or weight is needed"
            )


def parameters(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
