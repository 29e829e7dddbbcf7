"""The order in which an epoch visits the samples: a function of (seed, epoch, shard counts) alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrep.train.philox import words

# the words that order the shards and move samples through the buffer: of the run's set, and of one mixed into it
OWN_STREAMS = ("shards", "buffer")
MIXED_STREAMS = ("mixed-shards", "mixed-buffer")


def epoch_order(
    seed: int,
    epoch: int,
    shard_counts: Sequence[int],
    *,
    lanes: int = 8,
    shuffle_buffer: int = 2048,
    streams: tuple[str, str] = OWN_STREAMS,
) -> NDArray[np.int64]:
    """Order the samples of one epoch such that shards can be streamed.

    The shuffled shards, laid end to end, are cut into ``lanes`` streams of equal length (to one sample), so a
    lane reads its part of the shards front to back. Each lane passes through a shuffle buffer, and the epoch takes
    from the lanes in turn: ``order[lane::lanes]`` is one lane. Lanes can be dealt to any number of ranks or workers
    without changing the order.

    Args:
        seed: Seed of the run, in 0..2**32-1.
        epoch: Number of the epoch, from 0.
        shard_counts: Samples in each shard, in the order of the data set.
        lanes: Streams read side by side, at least 1.
        shuffle_buffer: Samples a lane holds, at least 1 (which keeps the lane's order). A lane no longer than this
            is shuffled completely.
        streams: Of the random words, for the shards and for the buffers.

    Returns:
        int64 (N,), a permutation of the N = sum(shard_counts) sample positions.
    """
    counts = np.asarray(shard_counts, np.int64)
    shards = np.argsort(_epoch_words(seed, streams[0], epoch, len(counts)), kind="stable")
    starts = np.cumsum(counts) - counts
    # the shuffled shards end to end: a ramp, plus for each shard how far it was moved
    moved = starts[shards] - (np.cumsum(counts[shards]) - counts[shards])
    stream = np.arange(counts.sum()) + np.repeat(moved, counts[shards])

    random_words = _epoch_words(seed, streams[1], epoch, len(stream))
    order = np.empty_like(stream)
    first = 0
    for lane in range(lanes):
        length = len(order[lane::lanes])
        here = slice(first, first + length)
        order[lane::lanes] = stream[here][_through_buffer(random_words[here], shuffle_buffer)]
        first += length
    return order


def limited(shard_counts: Sequence[int], limit: int) -> list[int]:
    """Shard counts of the first ``limit`` samples."""
    ends = np.minimum(np.cumsum(shard_counts), limit)
    return [int(count) for count in np.diff(ends, prepend=0) if count > 0]


def _through_buffer(random_words: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    """The order in which items 0..n-1 leave a shuffle buffer of ``size`` slots.

    The first items fill the slots; each later one pushes out what lies in its random slot; at the end the
    remaining ones leave in random order. Written without a loop: an item leaves when the next one enters its slot.
    """
    num_items = len(random_words)
    slots = np.arange(num_items)
    slots[size:] = random_words[size:] % np.uint64(size)
    by_slot = np.argsort(slots, kind="stable")
    followed = slots[by_slot[1:]] == slots[by_slot[:-1]]
    leaves = num_items + random_words.astype(np.int64)
    leaves[by_slot[:-1][followed]] = by_slot[1:][followed]
    return np.argsort(leaves, kind="stable")


def _epoch_words(seed: int, stream: str, epoch: int, count: int) -> NDArray[np.uint64]:
    """Words (count,) that belong to the epoch: drawn as one long row."""
    return words(seed, stream, np.zeros(1, np.int64), epoch=epoch, count=count)[0]
