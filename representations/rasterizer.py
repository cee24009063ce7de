"""Rasterization of 2D Gaussians: on the CPU by our own kernels, on CUDA by gsplat's. Their pictures agree to 1/255.

The conventions are gsplat's (Kerbl et al. 2023, arXiv 2308.04079, eq. 3 and appendix C). For Gaussian i and pixel p,
whose centre lies at half-integers, with d = p - center_i:

    Σ_i = R(θ_i) diag(s_i²) R(θ_i)ᵀ + 0.3 I        low-pass of 0.3 pixel², so that none falls between the pixels
    α_i = min(0.999, opacity_i · exp(-½ dᵀ Σ_i⁻¹ d)),  skipped where below 1/255
    C   = Σ_i c_i α_i T_i + T_end · background,  T_i = Π_{j<i} (1 - α_j)

Gaussians are ordered by index: Gaussian 0 is in front. A pixel stops before the Gaussian that would take T to 1e-4,
so up to a tenth of the background can remain behind an opaque Gaussian. Where α is cut off, the gradient is that of
the remaining part.
"""

import contextlib
import functools
import sys
from pathlib import Path

import torch
from torch.autograd.function import once_differentiable


def rasterize(centers, scales, angles, colors, opacities, background, size):
    """Gaussians → images (B, 3, H, W), differentiable.

    centers (B, N, 2) x and y in pixels, from the canvas's upper left corner;  scales (B, N, 2) standard deviations
    in pixels; angles (B, N) in radians, from the x axis towards the y axis, which points down;  colors (B, N, 3);
    opacities (B, N) in [0, 1];  background (3,) or (B, 3);  size (H, W). float32 or float64; gsplat renders in float32.
    Raises ValueError for other shapes and, on the CPU, FloatingPointError where a Gaussian is not finite.
    """
    batch, count = angles.shape
    background = background.expand(batch, -1) if background.ndim == 1 else background
    for name, value, shape in (
        ("centers", centers, (batch, count, 2)),
        ("scales", scales, (batch, count, 2)),
        ("colors", colors, (batch, count, 3)),
        ("opacities", opacities, (batch, count)),
        ("background", background, (batch, 3)),
    ):
        if value.shape != shape:
            raise ValueError(f"{name} {tuple(value.shape)}: {shape} is needed with angles {(batch, count)}")
    if centers.is_cuda and gsplat_works():
        return rasterize_by_gsplat(centers, scales, angles, colors, opacities, background, size)
    return Rasterize.apply(centers, scales, angles, colors, opacities, background, size)


@functools.cache
def gsplat_works():
    """Whether gsplat has its CUDA kernels; it compiles them itself and needs CUDA's nvcc for that."""
    try:
        from gsplat.cuda._backend import _C
    except ImportError:
        _C = None
    if _C is None:
        print(
            "gsplat has no CUDA kernels here (does it find nvcc?): the Gaussians are rasterized on the CPU",
            file=sys.stderr,
        )
    return _C is not None


def rasterize_by_gsplat(centers, scales, angles, colors, opacities, background, size):
    """Uses an orthographic camera with pixels as world units; the depth is the index."""
    from gsplat import rasterization

    from representations.gaussian_kernels import LOW_PASS

    centers, scales, angles, colors, opacities = (
        value.float() for value in (centers, scales, angles, colors, opacities)
    )
    batch, count = angles.shape
    depth = 1 + torch.arange(count, device=centers.device) / count
    zero = torch.zeros_like(angles)
    images, _, _ = rasterization(
        means=torch.cat([centers, depth.expand(batch, count)[..., None]], -1),
        quats=torch.stack([torch.cos(angles / 2), zero, zero, torch.sin(angles / 2)], -1),
        scales=torch.cat([scales, torch.ones_like(scales[..., :1])], -1),
        opacities=opacities,
        colors=colors[:, None],
        viewmats=torch.eye(4, device=centers.device).expand(batch, 1, 4, 4),
        Ks=torch.eye(3, device=centers.device).expand(batch, 1, 3, 3),
        width=size[1],
        height=size[0],
        eps2d=LOW_PASS,
        packed=False,
        backgrounds=background.to(colors).expand(batch, 3)[:, None],
        camera_model="ortho",
    )
    return images[:, 0].movedim(-1, 1)


def to_numpy(tensor):
    """A float64 copy, converted on the CPU, as some devices have no float64."""
    return tensor.detach().cpu().to(torch.float64, copy=True).contiguous().numpy()


@contextlib.contextmanager
def same_threads():
    """Inside, numba's kernels use as many threads as torch. numba's first parallel call changes OpenMP's thread count,
    which is also torch's; it is restored."""
    import numba

    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@functools.cache
def announce_compilation():
    """Prints a note if numba will compile the kernels at the first call, as there are none cached on disk."""
    from representations.gaussian_kernels import forward

    folder = forward.stats.cache_path
    if not folder or not any(Path(folder).glob("gaussian_kernels.forward-*.nbi")):
        print("compiling the rasterizer of the Gaussians, once: half a minute", file=sys.stderr)


class Rasterize(torch.autograd.Function):
    """The CPU kernels, for tensors on any device."""

    @staticmethod
    def forward(context, centers, scales, angles, colors, opacities, background, size):
        import numpy as np

        from representations import gaussian_kernels as kernels

        announce_compilation()
        *arrays, ground = [to_numpy(value) for value in (centers, scales, angles, colors, opacities, background)]
        if not all(np.isfinite(array).all() for array in (*arrays, ground)):
            raise FloatingPointError("a Gaussian's parameters are not finite: the learning rate may be too high")
        with same_threads():
            ellipses, boxes = kernels.shapes(*arrays[:3], arrays[4], *size)
            starts, order = kernels.sort_into_tiles(boxes, *size)
            images, transmittances, ends = kernels.forward(ellipses, boxes, arrays[3], ground, starts, order, *size)
        context.scales = arrays[1]
        context.kept = (ellipses, boxes, arrays[3], ground, starts, order, transmittances, ends)
        return torch.from_numpy(images).movedim(-1, 1).to(centers.dtype).to(centers.device)

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        from representations import gaussian_kernels as kernels

        ellipses, *_, transmittances, _ = context.kept
        along = to_numpy(gradient.movedim(1, -1))  # (B, H, W, 3)
        with same_threads():
            sums = kernels.backward(*context.kept, along)
            gradients = kernels.gradients(sums, ellipses, context.scales)
        gradients = (*gradients, (along * transmittances[..., None]).sum((1, 2)))
        return *(torch.from_numpy(array).to(gradient.dtype).to(gradient.device) for array in gradients), None
