import numpy as np
import pytest

from genrep.shards.philox import philox
from genrep.train.philox import STREAMS, words


def test_the_words_of_a_sample_are_those_of_its_counter():
    [drawn] = words(7, "pixels", np.array([11]), epoch=3, view=1, count=4)
    counter = [np.array([word], np.uint64) for word in (11, 1, 0, 3)]
    assert drawn.tolist() == [int(word[0]) for word in philox(counter, (7, 103))]


def test_a_sample_keeps_its_words_however_the_batch_is_made_up():
    whole = words(7, "pixels", np.arange(8), epoch=3, view=1, count=6)
    picked = words(7, "pixels", np.array([5, 2]), epoch=3, view=1, count=6)
    assert picked.tolist() == whole[[5, 2]].tolist()


def test_no_two_seeds_streams_epochs_or_views_share_words():
    samples = np.arange(10)
    drawn = [
        words(seed, stream, samples, epoch=epoch, view=view, count=5)
        for seed in (0, 1)
        for stream in STREAMS
        for epoch in (0, 1)
        for view in (0, 1)
    ]
    assert len(np.unique(drawn)) == np.size(drawn)


def test_a_seed_beyond_its_range_is_refused():
    with pytest.raises(ValueError, match=r"seed must lie in 0\.\.2\*\*32-1, got 4294967296"):
        words(2**32, "pixels", np.arange(1), epoch=0, count=1)
