"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose every matrix is made
orthogonal."""

import torch


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices to `matrices` (…, rows, columns): singular values end within 0.7 … 1.2.

    Jordan's quintic Newton-Schulz iteration X ← aX + b(XXᵀ)X + c(XXᵀ)²X, carried out on the small Gram matrix XXᵀ: all
    of its factors commute, so only the last product is as wide as the matrix.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalise(matrices.mT, iterations).mT
    matrices = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram, product = matrices @ matrices.mT, None
    identity = torch.eye(gram.shape[-1], device=gram.device)
    for _ in range(iterations):
        factor = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        gram = factor @ gram @ factor
        product = factor if product is None else factor @ product
    return product @ matrices


class Muon(torch.optim.Optimizer):
    """For weights with two or more dimensions; a convolution's is the matrix (out, in × height × width).

    Updates have AdamW's usual size, 0.2 root mean square, so that both take the same learning rate (Liu et al.
    2025, arXiv 2502.16982, eq. 4). torch.optim.Muon takes no convolutions.
    """

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                nesterov = weight.grad.lerp(mean, group["momentum"]).flatten(1)
                update = orthogonalise(nesterov) * 0.2 * max(nesterov.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(weight), alpha=group["lr"])
