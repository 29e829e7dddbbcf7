"""Philox-4x32, the counter-based generator behind everything that is random: equal to the bit on every machine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

# Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 (Random123's philox4x32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """Philox-4x32-10: four counter words, two key words -> four random words, all below 2**32.

    The counter's arrays broadcast against each other; the words come back in the common shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> _HALF) ^ c1 ^ np.uint64(k0),
            second & _LOW,
            (first >> _HALF) ^ c3 ^ np.uint64(k1),
            first & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def words(key: tuple[int, int], rows: NDArray[np.int64], *, second: int = 0, fourth: int = 0, count: int) -> Words:
    """Random 32-bit words (B, count), held in uint64; row b depends on ``rows[b]``, not on its neighbours.

    Args:
        key: Of the generator: the seed and the stream of the caller, below 2**32 each.
        rows: (B,), what the counter begins with: the index of a sample, the position of an image.
        second, fourth: The same of all rows; the counter is (row, second, block of four words, fourth).
    """
    blocks = -(-count // 4)
    counter = [
        rows.astype(np.uint64)[:, None],
        np.full((1, 1), second, np.uint64),
        np.arange(blocks, dtype=np.uint64)[None, :],
        np.full((1, 1), fourth, np.uint64),
    ]
    return np.stack(philox(counter, key), axis=-1).reshape(len(rows), 4 * blocks)[:, :count]


def uniform(random_words: Words) -> NDArray[np.float64]:
    """Uniforms in (0, 1): the middles of 2**32 equal cells, so never 0, 1 or 1/2."""
    return (random_words.astype(np.float64) + 0.5) * 2.0**-32
