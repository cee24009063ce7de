"""Guidance beyond ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻)): rescaling, and several weighted negative prompts (Perp-Neg)."""

import torch


def rescale(guided: torch.Tensor, with_text: torch.Tensor, phi: float) -> torch.Tensor:
    """φ o^s std(o(y)) / std(o^s) + (1-φ) o^s for model outputs (B, C, h, w), std over a row, so that guidance does not
    raise the contrast. Lin et al. 2023, arXiv 2305.08891."""
    ratio = with_text.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return phi * ratio * guided + (1 - phi) * guided


def perp_neg(positive: torch.Tensor, negatives: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """e⁺ + Σ_i w_i e_i^⊥: from the directions (B, C, h, w) of negative prompts, only the parts perpendicular to that of
    the prompt. Armandpour et al. 2023, Perp-Neg, arXiv 2304.04968."""
    total = positive
    for negative, weight in zip(negatives, weights, strict=True):
        dot, square = ((other * positive).sum((1, 2, 3), keepdim=True) for other in (negative, positive))
        # If y is y⁻, e⁺ is 0, and so is the projection onto it.
        total = total + weight * (negative - dot / square.clamp(min=torch.finfo(square.dtype).tiny) * positive)
    return total
