import numpy as np
import pytest

from genrep.shards import philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),  # "philox4x32 10" in kat_vectors of Random123
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = philox.philox([np.array([word], np.uint64) for word in counter], key)
    assert [int(word[0]) for word in words] == expected


def test_words_are_those_of_their_row_and_counter():
    drawn = philox.words((7, 9), np.array([11, 12]), second=2, fourth=5, count=6)
    for row, index in enumerate((11, 12)):
        blocks = [
            philox.philox([np.array([word], np.uint64) for word in (index, 2, block, 5)], (7, 9)) for block in (0, 1)
        ]
        assert drawn[row].tolist() == [int(word[0]) for block in blocks for word in block][:6]


def test_uniforms_are_the_middles_of_equal_cells():
    assert philox.uniform(np.array([0, 2**32 - 1], np.uint64)).tolist() == [2.0**-33, 1 - 2.0**-33]
