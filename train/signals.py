"""Collapse signals: whether features still fill their space, and whether images of one sample lie together."""

import math

import torch
import torch.nn.functional as F
from torch import nn

MOST_IMAGES = 1024  # signals are taken of at most about so many


def collapse_signals(backbone: nn.Module, images: torch.Tensor, *, images_per_sample: int) -> dict[str, float | None]:
    """Signals of the features of a batch, in evaluation mode, which leaves the backbone as it is.

    Args:
        images: (V * B, 3, S, S), all first images of the samples, then all second ones.
        images_per_sample: V; with one image there is no alignment.

    Returns:
        ``rankme``, ``alignment`` and ``uniformity``; None where they mean nothing.
    """
    images = images.unflatten(0, (images_per_sample, -1))[:, : max(2, MOST_IMAGES // images_per_sample)]
    was_training = backbone.training
    backbone.eval()
    with torch.inference_mode():
        features = backbone(images.flatten(0, 1)).double().unflatten(0, images.shape[:2])
    backbone.train(was_training)
    if not features.isfinite().all():
        return dict.fromkeys(("rankme", "alignment", "uniformity"))
    return {
        "rankme": rankme(features.flatten(0, 1)),
        "alignment": alignment(features) if images_per_sample > 1 else None,
        "uniformity": uniformity(features.flatten(0, 1)),
    }


def rankme(features: torch.Tensor, *, epsilon: float = 1e-7) -> float:
    """Effective rank of features (N, F): exp(-sum_k p_k log p_k), p_k = s_k / sum_j s_j + epsilon, s singular values.

    From 1, all features multiples of one, to min(N, F).

    Source: Garrido et al. 2023 (arXiv:2210.02885), section 3.
    """
    singular = torch.linalg.svdvals(features)
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny) + epsilon  # also of zeros
    return float(torch.exp(-(shares * shares.log()).sum()))


def alignment(features: torch.Tensor) -> float:
    """Mean of |x - y|^2 over pairs of images of one sample, features (V, B, F) scaled to unit length: 0 is best.

    Source: Wang and Isola 2020 (arXiv:2005.10242), section 4.1: E |f(x) - f(y)|^alpha with alpha = 2.
    """
    rows = F.normalize(features, dim=2)
    num_views = len(rows)
    # the sum over pairs of |x_i - x_j|^2 is V sum_i |x_i|^2 - |sum_i x_i|^2
    sums = num_views * rows.square().sum((0, 2)) - rows.sum(0).square().sum(1)
    return float(sums.mean() / (num_views * (num_views - 1) / 2))


def uniformity(features: torch.Tensor) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of rows (N, F) scaled to unit length: 0 where all are one point.

    Source: Wang and Isola 2020 (arXiv:2005.10242), section 4.1: log E exp(-t |f(x) - f(y)|^2) with t = 2.
    """
    rows = F.normalize(features, dim=1)
    squares = torch.pdist(rows).square()
    return float((-2 * squares).logsumexp(0)) - math.log(len(squares))
