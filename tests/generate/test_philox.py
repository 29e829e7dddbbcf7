import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import kstest, truncnorm

from genrep.generate import philox
from genrep.shards import philox as shared

EDGES = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint64)
PINNED_NORMALS = ["0x1.b0f0089751d00p+0", "-0x1.976d8776354ecp-7", "0x1.faf3deb213b88p-1", "0x1.52ca22662e437p+0"]
PINNED_TRUNCATED = ["0x1.816dde900e7bep+0", "-0x1.84e38dcda1e79p-7", "0x1.db96aeb0253a5p-1", "0x1.381feed071222p+0"]
WORDS = np.concatenate([np.linspace(0, 2**32 - 1, 200_001).astype(np.uint64), EDGES])


def test_the_words_of_a_sample_are_those_of_its_counter():
    words = philox.words(2**32 * 5 + 7, 3, np.array([11, 12]), view=2, count=6)
    for row, sample in enumerate((11, 12)):
        blocks = [
            shared.philox([np.array([word], np.uint64) for word in (sample, 2, block, 5)], (7, 3)) for block in (0, 1)
        ]
        assert words[row].tolist() == [int(word[0]) for block in blocks for word in block][:6]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"seed": 2**32}, {"stream": 1}, {"samples": np.array([1])}, {"view": 1}]
)
def test_words_change_with_each_part_of_their_address(change):
    address = {"seed": 0, "stream": 0, "samples": np.array([0]), "view": 0, "count": 8}
    assert not np.any(philox.words(**address) == philox.words(**{**address, **change}))


def test_a_seed_beyond_64_bits_is_refused():
    with pytest.raises(ValueError, match=r"seed must lie in 0\.\.2\*\*64-1, got -1"):
        philox.words(-1, 0, np.array([0]), view=0, count=1)


def test_normals_are_the_exact_quantiles():
    expected = ndtri(philox.uniform(WORDS))
    np.testing.assert_allclose(philox.normal(WORDS), expected, rtol=3e-15, atol=0)


def test_truncated_normals_are_the_exact_quantiles_between_minus_two_and_two():
    low = ndtr(-2.0)
    expected = ndtri(low + philox.uniform(WORDS) * (1 - 2 * low))
    values = philox.truncated_normal(WORDS)
    np.testing.assert_allclose(values, expected, rtol=0, atol=4e-15)
    assert np.abs(values).max() < 2


def test_draws_follow_their_distributions():
    samples = np.arange(4000)
    normals = philox.draw(philox.normal, 0, 0, samples, view=0, count=5).ravel()
    truncated = philox.draw(philox.truncated_normal, 0, 0, samples, view=0, count=5).ravel()
    assert kstest(normals, "norm").pvalue > 0.01
    assert kstest(truncated, truncnorm(-2, 2).cdf).pvalue > 0.01
    assert abs(truncated.std() - 0.87963) < 0.01  # paper.md 2.1


def test_the_logarithm_is_exact_to_two_roundings():
    x = np.concatenate([np.geomspace(1e-10, 0.0751, 100_000), 2.0 ** -np.arange(1, 33), [0.5**0.5]])
    np.testing.assert_allclose(philox._log(x), np.log(x), rtol=5e-16)


def test_values_are_pinned_to_the_bit():
    """Old data sets can be made again only while these hold, on any machine: exact hexadecimal values."""
    samples = np.array([0, 1_299_999])
    normals = philox.draw(philox.normal, 7, 0, samples, view=0, count=5)
    truncated = philox.draw(philox.truncated_normal, 7, 0, samples, view=0, count=5)
    assert [value.hex() for value in normals[:, [0, 4]].ravel()] == PINNED_NORMALS
    assert [value.hex() for value in truncated[:, [0, 4]].ravel()] == PINNED_TRUNCATED
    assert philox.symmetric_millionths(EDGES).tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0]


def test_a_chunked_draw_equals_one_in_one_piece(monkeypatch):
    whole = philox.draw(philox.normal, 0, 0, np.arange(50), view=1, count=7)
    monkeypatch.setattr(philox, "_WORDS_AT_ONCE", 16)
    np.testing.assert_array_equal(philox.draw(philox.normal, 0, 0, np.arange(50), view=1, count=7), whole)


@pytest.mark.parametrize("dim", [1, 2, 5, 64])
def test_row_norms_are_euclidean(dim):
    rows = np.random.default_rng(0).normal(size=(6, dim))
    np.testing.assert_allclose(philox.row_norms(rows)[:, 0], np.linalg.norm(rows, axis=1), rtol=1e-14)
