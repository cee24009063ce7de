"""Devices of tensors."""

import os

import torch

from errors import InputError, first_line


def to_device(tensor, device):
    """Copies a CPU tensor to the device without waiting for the GPU's queue."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def per_row(values, like):
    """Numbers (B,) on the CPU as (B, 1, 1, 1) in the dtype and on the device of `like`."""
    return to_device(values.to(like.dtype), like.device).view(-1, 1, 1, 1)


def make_cuda_deterministic():
    """Makes the same command give the same bytes, as far as PyTorch has deterministic kernels; it warns of operations
    that have none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # It writes every new tensor twice.


def pick_device(name):
    """Resolves auto; raises InputError for a device that this machine lacks."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--prior.device {name} is not available here ({first_line(error)})") from error
    return name
