"""What the evaluator leaves to chance: words keyed by an image's position, and the labelled draws made of them."""

import numpy as np
from numpy.typing import NDArray

from genrep.shards import philox

# append only; apart from the streams of genrep.generate and genrep.train
STREAMS = {
    "held-out": 200,
    "shift": 201,
    "labels": 202,
    "subset": 203,
    "folds": 204,
    "bootstrap": 205,
    "order": 206,
    "split": 207,
}

Labels = int | str | None  # what a fit sees: so many of each class, a share of each such as "10%", all

NUM_DRAWS, NUM_SHARE_DRAWS = 50, 5  # of so many labels of a class; of a share, whose draws are large and differ little


def words(
    stream: str, positions: NDArray[np.int64], *, seed: int = 0, source: int = 0, count: int
) -> NDArray[np.uint64]:
    """Random 32-bit words (B, count), held in uint64; row b depends on ``positions[b]``, not on its neighbours.

    Key (seed, stream), counter (position, source, block of four words, 0).
    """
    return philox.words((seed, STREAMS[stream]), positions, second=source, count=count)


def label_draws(
    labels: NDArray[np.int64], labels_per_class: int | str, *, seed: int, num_draws: int | None = None
) -> NDArray[np.int64]:
    """Few-label training sets: of each class as many rows as asked, those with the smallest words of the draw.

    Args:
        labels: (N,), classes 0..C-1, each with as many images or more.
        labels_per_class: A number, or a share of each class such as ``1%`` (one image at least).
        seed: Of the draws; 0..2**32-1.
        num_draws: Left out: 50 of a number, 5 of a share.

    Returns:
        Rows (num_draws, n), class by class. A draw of fewer labels is part of the draw of more.
    """
    counts = np.bincount(labels)
    if isinstance(labels_per_class, str):
        taken = np.maximum(1, np.rint(counts * share(labels_per_class)).astype(np.int64))
    else:
        taken = np.full(len(counts), labels_per_class)
    assert (taken <= counts).all()
    if num_draws is None:
        num_draws = NUM_SHARE_DRAWS if isinstance(labels_per_class, str) else NUM_DRAWS
    keys = words("labels", np.arange(len(labels)), seed=seed, count=num_draws)
    firsts = np.cumsum(counts) - counts
    chosen = np.concatenate([first + np.arange(count) for first, count in zip(firsts, taken, strict=True)])
    return np.stack([np.lexsort((keys[:, draw], labels))[chosen] for draw in range(num_draws)])


def share(text: str) -> float:
    """``10%`` as 0.1.

    Raises:
        ValueError: If it is no percentage between 0 and 100.
    """
    value = float(text.removesuffix("%")) / 100
    if not text.endswith("%") or not 0 < value < 1:
        raise ValueError(f"{text!r} is no share such as 10%")
    return value
