"""The bootstrap over test images."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.draws import words

NUM_RESAMPLES = 1000


def resamples(num_images: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """1,000 times: how often each of N images is in a sample of N drawn with replacement, int64 (N,)."""
    for number in range(NUM_RESAMPLES):
        drawn = words("bootstrap", np.arange(num_images), seed=seed, source=number, count=1)[:, 0]
        yield np.bincount((drawn * np.uint64(num_images) >> np.uint64(32)).astype(np.int64), minlength=num_images)
