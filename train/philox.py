"""Counter-based random words for training: each is a function of (seed, stream, epoch, sample, view) alone."""

import numpy as np
from numpy.typing import NDArray

from genrep.shards import philox

MAX_SEED = 2**32 - 1

# append only; apart from the streams of genrep.generate, so that a run and its data never share words
STREAMS = {"shards": 100, "buffer": 101, "view": 102, "pixels": 103, "mixed-shards": 104, "mixed-buffer": 105}


def words(
    seed: int, stream: str, samples: NDArray[np.int64], *, epoch: int, view: int = 0, count: int
) -> NDArray[np.uint64]:
    """Random 32-bit words (B, count), held in uint64; row b depends on ``samples[b]``, not on its neighbours.

    Key (seed, stream), counter (sample, view, block of four words, epoch).
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must lie in 0..2**32-1, got {seed}")
    return philox.words((seed, STREAMS[stream]), samples, second=view, fourth=epoch, count=count)
