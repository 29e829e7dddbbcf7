"""Counter-based random words for training: each is a function of (seed, stream, epoch, sample, view) alone."""

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**32 - 1

# append only; apart from the streams of genrep.generate, so that a run and its data never share words
STREAMS = {"shards": 100, "buffer": 101, "view": 102, "pixels": 103}

# Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3: Philox-4x32 with ten rounds
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def words(
    seed: int, stream: str, samples: NDArray[np.int64], *, epoch: int, view: int = 0, count: int
) -> NDArray[np.uint64]:
    """Random 32-bit words (B, count), held in uint64; row b depends on ``samples[b]``, not on its neighbours.

    Key (seed, stream), counter (sample, view, block of four words, epoch).
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must lie in 0..2**32-1, got {seed}")
    blocks = -(-count // 4)
    counter = np.empty((4, len(samples), blocks), np.uint64)
    counter[0] = samples[:, None]
    counter[1] = view
    counter[2] = np.arange(blocks)
    counter[3] = epoch
    random = philox(counter, (seed, STREAMS[stream]))
    return random.transpose(1, 2, 0).reshape(len(samples), 4 * blocks)[:, :count]


def uniform(random_words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniforms in (0, 1): the middles of 2**32 equal cells."""
    return (random_words.astype(np.float64) + 0.5) * 2.0**-32


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Philox-4x32-10 of counters (4, ...): four random words each, all arrays below 2**32."""
    first, second, third, fourth = counter
    key_first, key_second = key
    for _ in range(10):
        left, right = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first = (right >> _HALF) ^ second ^ np.uint64(key_first)
        third = (left >> _HALF) ^ fourth ^ np.uint64(key_second)
        second, fourth = right & _LOW, left & _LOW
        key_first = (key_first + _WEYL[0]) & 0xFFFFFFFF
        key_second = (key_second + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([first, second, third, fourth])
