import numpy as np
import pytest

from genrep.evaluate.draws import label_draws, share, words
from genrep.shards.philox import philox

LABELS = np.array([0, 1, 2, 2, 1, 0, 0, 0, 2, 1, 1, 2])


def test_the_words_of_an_image_are_those_of_its_position_split_and_stream():
    [[word, *_]] = words("shift", np.array([7]), source=1, seed=3, count=1).tolist()
    counter = [np.array([part], np.uint64) for part in (7, 1, 0, 0)]
    assert word == philox(counter, (3, 201))[0][0]


def test_the_words_of_an_image_do_not_depend_on_its_neighbours():
    whole = words("shift", np.arange(10), count=5)
    assert np.array_equal(words("shift", np.array([8, 2]), count=5), whole[[8, 2]])


@pytest.mark.parametrize("labels_per_class", [1, 2, 4])
def test_a_draw_has_so_many_different_images_of_each_class(labels_per_class):
    draws = label_draws(LABELS, labels_per_class, seed=0)
    assert draws.shape == (50, 3 * labels_per_class)
    for rows in draws:
        assert len(set(rows)) == len(rows)
        assert np.bincount(LABELS[rows]).tolist() == [labels_per_class] * 3


def test_a_draw_of_fewer_labels_is_part_of_the_draw_of_more():
    few, more = label_draws(LABELS, 1, seed=4), label_draws(LABELS, 3, seed=4)
    assert all(set(a) < set(b) for a, b in zip(few, more, strict=True))


def test_draws_differ_from_each_other_and_between_seeds_and_repeat():
    labels = np.arange(1000) % 10
    draws = label_draws(labels, 10, seed=0)
    assert len({tuple(rows) for rows in draws}) == 50
    assert not {tuple(rows) for rows in label_draws(labels, 10, seed=1)} & {tuple(rows) for rows in draws}
    assert np.array_equal(label_draws(labels, 10, seed=0), draws)


def test_every_image_is_as_likely_to_be_drawn():
    labels = np.zeros(20, np.int64)
    counts = np.bincount(label_draws(labels, 5, seed=0, num_draws=2000).ravel())
    assert abs(counts - 500).max() < 5 * (2000 * 0.25 * 0.75) ** 0.5  # five standard deviations of a binomial


def test_a_share_takes_so_much_of_each_class_and_at_least_one():
    labels = np.repeat([0, 1, 2], [200, 40, 3])
    draws = label_draws(labels, "10%", seed=0)
    assert draws.shape == (5, 20 + 4 + 1)
    for rows in draws:
        assert np.bincount(labels[rows]).tolist() == [20, 4, 1]
    assert set(label_draws(labels, "1%", seed=0)[0]) < set(draws[0])


@pytest.mark.parametrize("text", ["0%", "100%", "10", "-1%"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="no share such as 10%"):
        share(text)
