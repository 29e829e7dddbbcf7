"""Anchor latents, classes and noise seeds: functions of (seed, sample index)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrep.generate import philox

# append only, so that old data sets can be made again
STREAMS = {
    "anchor": 0,
    "class": 1,
    "gauss": 2,
    "independent": 3,
    "angular": 4,
    "uniform": 5,
    "steer": 6,
    "noise": 7,
}

# what a generator's prior may be called; the cut is at two standard deviations
PRIORS = {"normal": philox.normal, "truncated-normal": philox.truncated_normal}

Indices = Sequence[int] | NDArray[np.int64]


def anchor_latents(
    seed: int, sample_indices: Indices, *, dim: int, prior: str = "normal", scale: float = 1.0
) -> NDArray[np.float32]:
    """Draw the anchor latent of each sample.

    Args:
        seed: Seed of the data set, in 0..2**64-1.
        sample_indices: Positions in the data set (not in the batch), length B >= 1.
        dim: Size D of the generator's latent.
        prior: ``"normal"``, or ``"truncated-normal"``: cut at two standard deviations.
        scale: Factor on the prior, in (0, 1]; the truncation of BigGAN is such a factor.

    Returns:
        float32 (B, D). Row b depends on ``seed`` and ``sample_indices[b]`` alone.

    Source: truncation trick, Brock et al. 2019 (arXiv:1809.11096, Sec. 3.1), as a factor.
    """
    return prior_latents(seed, "anchor", sample_indices, view=0, dim=dim, prior=prior, scale=scale)


def prior_latents(
    seed: int, stream: str, sample_indices: Indices, *, view: int, dim: int, prior: str, scale: float
) -> NDArray[np.float32]:
    """Latents (B, D) from the prior for one view of each sample, from the named stream."""
    if not 0 < scale <= 1:
        raise ValueError(f"the prior's scale must lie in (0, 1], got {scale}; 1.0 keeps the full spread")
    samples = np.asarray(sample_indices, np.int64)
    values = philox.draw(PRIORS[prior], seed, STREAMS[stream], samples, view=view, count=dim)
    return (scale * values).astype(np.float32)


def class_labels(seed: int, sample_indices: Indices, classes: Sequence[int]) -> NDArray[np.int64]:
    """The class of each sample, int64 (B,); -1 everywhere if there are no classes.

    Each block of C = len(classes) consecutive samples holds each class once, in an order keyed by (seed, block):
    N samples hold each class floor(N / C) or one more times, whatever N is.
    """
    samples = np.asarray(sample_indices, np.int64)
    if not classes:
        return np.full(len(samples), -1, np.int64)
    block, place = np.divmod(samples, len(classes))
    blocks, row = np.unique(block, return_inverse=True)
    random_words = philox.words(seed, STREAMS["class"], blocks, view=0, count=len(classes))
    order = np.argsort(random_words, axis=1, kind="stable")
    return np.asarray(classes, np.int64)[order[row, place]]


def noise_seeds(seed: int, sample_indices: Indices, *, view: int = 0) -> NDArray[np.int64]:
    """Seeds (B,), int64 >= 0, for generators that add noise of their own; view 0 stands for all views of a sample."""
    samples = np.asarray(sample_indices, np.int64)
    high, low = philox.words(seed, STREAMS["noise"], samples, view=view, count=2).astype(np.int64).T
    return ((high & 0x7FFFFFFF) << 32) | low
