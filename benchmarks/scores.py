"""Numbers for the tables: scores of pictures, the Fréchet distance, and confidence intervals.

Pictures are grouped by prompt, (P, n, 3, H, W): n for each of P prompts. Intervals come from resampling the prompts,
as pictures of the same prompt are more alike than those of different prompts.
"""

import torch

from recording.scores import Judge, background_colours, saturations

REPLICATES = 500


def scores(images: torch.Tensor, judge: Judge, prompts: list, captions: dict) -> dict[str, torch.Tensor]:
    """Pictures (P, n, 3, H, W) of P prompts, each a (phrase, background) → {column: (P,) means over each prompt's
    pictures, "features": (P, n, D)}, float64.

    top1, top5   whether the CLIP ranks the wanted name first, or among the first five, of all names trained on
    background   whether the border has the wanted colour
    diversity    mean 1 - cosine of two pictures of the prompt in the CLIP's feature space
    saturation   mean of the S of HSV
    """
    P, n = images.shape[:2]
    flat, wanted = images.flatten(0, 1), [pair for pair in prompts for _ in range(n)]
    features = judge.image_features(flat).double().unflatten(0, (P, n))
    ranks = torch.tensor(judge.ranks(flat, wanted, captions)).view(P, n)
    colours = background_colours(flat, captions)
    right = torch.tensor([colour == background for colour, (_, background) in zip(colours, wanted, strict=True)])
    apart = 1 - features @ features.mT  # (P, n, n), 0 on the diagonal
    return {
        "top1": (ranks == 0).double().mean(1),
        "top5": (ranks < 5).double().mean(1),
        "background": right.double().view(P, n).mean(1),
        "diversity": apart.sum((1, 2)) / (n * (n - 1)),
        "saturation": saturations(flat).double().view(P, n).mean(1),
        "features": features,
    }


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (…, n, D) → means (…, D) and second moments (…, D, D)."""
    return features.mean(-2), features.mT @ features / features.shape[-2]


def mixed(moments: tuple, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of each prompt's pictures → mean (D,) and covariance (D, D) of all pictures, with prompt weights (P,)
    that sum to 1."""
    first, second = (torch.tensordot(weights, part, 1) for part in moments)
    return first, second - first.outer(first)


def root(covariance: torch.Tensor) -> torch.Tensor:
    """The positive square root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def frechet(ours: tuple, theirs: tuple, root_of_theirs: torch.Tensor) -> float:
    """‖μ - μ'‖² + tr(Σ + Σ' - 2 (Σ Σ')^½), Dowson and Landau 1982; with Inception features it is FID (Heusel et al.
    2017, arXiv 1706.08500)."""
    (mean, covariance), (their_mean, their_covariance) = ours, theirs
    product = torch.linalg.eigvalsh(root_of_theirs @ covariance @ root_of_theirs).clamp(min=0)
    traces = covariance.trace() + their_covariance.trace() - 2 * product.sqrt().sum()
    return ((mean - their_mean).square().sum() + traces).item()


def distances(features: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Fréchet distances of pictures (P, n, D) to a reference (P, m, D) of the same prompts, for each of the prompt
    weights (R, P) → (R,), extrapolated to many pictures.

    With n pictures per prompt, the distance is too large by about c/n; with half of them, by 2c/n. So twice the first
    minus the second is right to that order. (Chong and Forsyth 2020, arXiv 1911.07023, fit a line to several n.)
    """
    half = features.shape[1] // 2
    parts = [moments(part) for part in (features, features[:, :half], features[:, -half:])]
    reference_moments, found = moments(reference), []
    for each in weights:
        theirs = mixed(reference_moments, each)
        root_of_theirs = root(theirs[1])
        whole, first, second = (frechet(mixed(part, each), theirs, root_of_theirs) for part in parts)
        found.append(2 * whole - (first + second) / 2)
    return torch.tensor(found, dtype=torch.float64)


def resampled(count: int) -> torch.Tensor:
    """Weights (REPLICATES, count) of `count` prompts drawn with replacement; the same for every row, so that rows are
    compared on the same prompts."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(count, (REPLICATES, count), generator=generator)
    return torch.nn.functional.one_hot(drawn, count).double().mean(1)


def interval(values: torch.Tensor, around: float | None = None) -> tuple[float, float]:
    """The middle 95 % of the values (R,); with `around`, a 95 % interval around that number from the values' standard
    deviation. Distances need this: their replicates are biased, as prompts drawn twice leave fewer different ones."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if around is not None:
        return around - 1.96 * values.std().item(), around + 1.96 * values.std().item()
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def median(values: torch.Tensor, weights: torch.Tensor) -> float:
    """The weighted median of the values (P,), with weights (P,) that sum to 1. Used for times, as it is robust to runs
    that shared their core."""
    values, order = values.sort()
    return values[torch.searchsorted(weights[order].cumsum(0), 0.5 - 1e-9)].item()
