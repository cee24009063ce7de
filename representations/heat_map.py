"""Numbers as colours."""

import torch
from matplotlib import colormaps  # a tenth of a second; matplotlib.pyplot would take a whole one


def heat_map(values: torch.Tensor, largest: float) -> torch.Tensor:
    """Values (B, H, W) in [0, largest] as colours (B, 3, H, W) in [0, 1], from black through violet and orange to pale
    yellow: matplotlib's "magma"."""
    colors = torch.tensor(colormaps["magma"].colors, device=values.device)  # (256, 3)
    index = (values / max(largest, 1e-12)).clamp(0, 1) * (len(colors) - 1)
    return colors[index.round().long()].movedim(-1, 1)
