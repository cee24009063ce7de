"""Climbing from clean latents to noisy ones by DDIM inversion, as ISM and SDI do."""


def rungs(start, end, stride):
    """Pairs (a, b) of timesteps (B,) that climb from start to end by `stride`, the last step shortened to land on end.

    Rows climb side by side; one that has arrived stays, a = b = end. Both t live on the CPU, so no GPU is waited for.
    """
    import torch

    while (start < end).any():
        above = torch.minimum(start + stride, end)
        yield start, above
        start = above
