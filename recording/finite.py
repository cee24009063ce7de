"""What is not finite ends a run, with an error that names the step, the timestep and the particle."""

import math
from collections.abc import Iterable

import torch


def require_finite(what: str, sizes: torch.Tensor, places: Iterable[str], dtype: torch.dtype) -> None:
    """Raises FloatingPointError for the first of `sizes` (N,), such as norms, that is not finite.

    places: where each of them is from, N texts; dtype: the prior's.
    """
    for place, size in zip(places, sizes.tolist(), strict=True):
        if not math.isfinite(size):
            advice = "use a lower learning rate (as --rep.lr), --algo.guidance-scale or weight"
            if dtype == torch.float16:
                advice = "float16 ends at 65,504: use --prior.dtype bfloat16 or float32"
            raise FloatingPointError(f"{place}: the {what} is not finite; {advice}")


def state_size(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """The sum of the absolute values of an optimizer's parameters and of its moments of them, (1,).

    If Adam's squares overflow, the parameters stand still and remain finite.
    """
    values = []
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        kept = optimizer.state.get(parameter, {}).values()
        moments = [value for value in kept if torch.is_tensor(value) and value.shape == parameter.shape]
        values += [parameter.detach(), *moments]
    # The 2-norm would overflow where the values do not.
    return torch.nn.utils.get_total_norm(values, norm_type=1).view(1)
