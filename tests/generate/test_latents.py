import numpy as np
import pytest

from genrep.generate.latents import STREAMS, anchor_latents, class_labels, noise_seeds

PINNED_LATENTS = ["-0x1.05f4a00000000p-2", "0x1.2d769e0000000p+0", "0x1.7c49c20000000p-1", "0x1.20897e0000000p-1"]
PINNED_LABELS = [6, 5, 9, 2, 4, 8, 3, 7, 1, 0]
PINNED_NOISE_SEEDS = [7026226177530367252, 8500780333308945201]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_sample_keeps_its_latent_label_and_noise_however_the_run_is_batched(batch_size):
    batches = [range(start, min(start + batch_size, 20)) for start in range(0, 20, batch_size)]
    for draw in (
        lambda indices: anchor_latents(7, indices, dim=5),
        lambda indices: class_labels(7, indices, [2, 4, 9]),
        lambda indices: noise_seeds(7, indices),
    ):
        np.testing.assert_array_equal(np.concatenate([draw(batch) for batch in batches]), draw(range(20)))


def test_two_samples_never_share_a_latent():
    latents = anchor_latents(0, range(500), dim=3)
    assert len(np.unique(latents)) == latents.size


def test_a_truncated_prior_stays_within_two_deviations_times_its_scale():
    latents = anchor_latents(0, range(2000), dim=16, prior="truncated-normal", scale=0.5)
    assert latents.dtype == np.float32
    assert 0.99 < np.abs(latents).max() <= 1.0


def test_the_scale_is_a_factor():
    np.testing.assert_array_equal(
        anchor_latents(3, range(9), dim=4, scale=0.5), anchor_latents(3, range(9), dim=4) * np.float32(0.5)
    )


@pytest.mark.parametrize("scale", [0, -1, 1.5])
def test_a_scale_outside_its_range_is_refused_by_name(scale):
    with pytest.raises(ValueError, match=rf"scale must lie in \(0, 1\], got {scale}"):
        anchor_latents(7, [0], dim=1, scale=scale)


@pytest.mark.parametrize("classes", [(0,), (3, 5), tuple(range(10)), tuple(range(0, 1000, 7))])
def test_each_block_of_consecutive_samples_holds_each_class_once(classes):
    count = len(classes)
    labels = class_labels(1, range(4 * count), classes)
    for block in labels.reshape(4, count):
        assert sorted(block.tolist()) == list(classes)


def test_the_order_of_the_classes_changes_with_block_and_seed():
    first, second = class_labels(0, range(200), range(100)).reshape(2, 100)
    assert (first != second).any()
    assert (class_labels(1, range(100), range(100)) != first).any()


def test_without_classes_the_label_is_minus_one():
    assert class_labels(0, range(3), []).tolist() == [-1, -1, -1]


def test_latents_labels_and_noise_seeds_are_pinned():
    """A change here is another data set under the same recipe."""
    assert [value.hex() for value in anchor_latents(0, [0, 123_456_789], dim=2).ravel().tolist()] == PINNED_LATENTS
    assert class_labels(0, range(10), range(10)).tolist() == PINNED_LABELS
    assert noise_seeds(0, [0, 1]).tolist() == PINNED_NOISE_SEEDS
    assert (noise_seeds(0, range(100)) >= 0).all()


def test_streams_are_appended_to_and_never_renumbered():
    names = ["anchor", "class", "gauss", "independent", "angular", "uniform", "steer", "noise"]
    assert {name: STREAMS[name] for name in names} == {name: number for number, name in enumerate(names)}
    assert len(set(STREAMS.values())) == len(STREAMS)
