"""What the evaluator leaves to chance: words keyed by an image's position, and the labelled draws made of them."""

import numpy as np
from numpy.typing import NDArray

from genrep.shards import philox

# append only; apart from the streams of genrep.generate and genrep.train
STREAMS = {"held-out": 200, "shift": 201, "labels": 202, "subset": 203}

NUM_DRAWS = 50


def words(
    stream: str, positions: NDArray[np.int64], *, seed: int = 0, source: int = 0, count: int
) -> NDArray[np.uint64]:
    """Random 32-bit words (B, count), held in uint64; row b depends on ``positions[b]``, not on its neighbours.

    Key (seed, stream), counter (position, source, block of four words, 0).
    """
    return philox.words((seed, STREAMS[stream]), positions, second=source, count=count)


def label_draws(
    labels: NDArray[np.int64], labels_per_class: int, *, seed: int, num_draws: int = NUM_DRAWS
) -> NDArray[np.int64]:
    """Few-label training sets: of each class the ``labels_per_class`` rows with the smallest words of the draw.

    Args:
        labels: (N,), classes 0..C-1, each with as many images or more.
        seed: Of the draws; 0..2**32-1.

    Returns:
        Rows (num_draws, C * labels_per_class), class by class. A draw of fewer labels is part of the draw of more.
    """
    counts = np.bincount(labels)
    assert counts.min() >= labels_per_class
    keys = words("labels", np.arange(len(labels)), seed=seed, count=num_draws)
    firsts = np.cumsum(counts) - counts
    chosen = (firsts[:, None] + np.arange(labels_per_class)).ravel()
    return np.stack([np.lexsort((keys[:, draw], labels))[chosen] for draw in range(num_draws)])
