"""Numbers as colours."""

import torch

# RGB from black through violet, red and orange to pale yellow, in equal steps of lightness.
HEAT = ((0, 0, 4), (60, 9, 101), (130, 38, 129), (200, 62, 115), (245, 110, 92), (254, 171, 119), (252, 253, 191))


def heat_map(values: torch.Tensor, largest: float) -> torch.Tensor:
    """Values (B, H, W) in [0, largest] as colours (B, 3, H, W) in [0, 1]."""
    anchors = torch.tensor(HEAT, device=values.device) / 255
    place = (values / max(largest, 1e-12)).clamp(0, 1) * (len(anchors) - 1)
    below = place.floor().long().clamp(max=len(anchors) - 2)
    fraction = (place - below)[..., None]
    return (anchors[below] * (1 - fraction) + anchors[below + 1] * fraction).movedim(-1, 1)
