import numpy as np
import pytest

from genrep.train.philox import STREAMS, philox, words


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of Random123 1.09, kat_vectors, philox4x32 10
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_words_are_those_of_the_published_generator(counter, key, expected):
    assert philox(np.array(counter, np.uint64)[:, None], key)[:, 0].tolist() == expected


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
