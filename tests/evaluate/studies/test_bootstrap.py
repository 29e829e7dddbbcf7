import numpy as np
import pytest

from genrep.evaluate.studies.bootstrap import estimate


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_a_difference_that_is_the_same_on_every_image_and_seed_has_no_spread():
    right = rng().integers(0, 2, (3, 500)).astype(float)
    found = estimate([one - (one - 0.25) for one in right])
    assert found.mean == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25), abs=1e-6)
    assert found.clear


def test_of_one_seed_the_interval_is_that_of_the_test_images():
    right = (rng().random(2000) < 0.8).astype(float)
    found = estimate([right])
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert found.interval == pytest.approx((right.mean() - half, right.mean() + half), abs=0.1 * half)
    assert found.test_error == pytest.approx(half, rel=1e-3)


def test_over_seeds_that_differ_the_interval_is_that_of_their_mean():
    """Images without a say: constant within a seed."""
    by_seed = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    found = estimate([np.full(100, value) for value in by_seed])
    error = by_seed.std(ddof=1) / np.sqrt(5)
    assert found.mean == pytest.approx(0.3)
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    assert found.by_seed == pytest.approx(by_seed)
    assert found.test_error == pytest.approx(0)


def test_pairing_by_image_makes_a_small_difference_clear():
    """Both encoders are right on the same easy images; one is right on forty more."""
    easy = (rng().random(4000) < 0.8).astype(float)
    extra = np.zeros(4000)
    extra[np.flatnonzero(easy == 0)[:40]] = 1
    paired = estimate([easy + extra - easy] * 3)
    assert paired.mean == pytest.approx(0.01)
    assert paired.clear
    shuffled = rng(1).permutation(4000)
    unpaired = estimate([(easy + extra)[shuffled] - easy] * 3)
    assert unpaired.mean == pytest.approx(0.01)
    assert not unpaired.clear


def test_pairing_by_seed_removes_what_seeds_share():
    good_and_bad = [0.2, -0.2, 0.1, -0.1, 0.0]
    images = rng().random((5, 1000))
    difference = [(image + shift + 0.05) - (image + shift) for image, shift in zip(images, good_and_bad, strict=True)]
    assert estimate(difference).interval == pytest.approx((0.05, 0.05), abs=1e-6)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Two-way data: seed effects and image noise; the difference is 0."""
    held = 0
    for trial in range(100):
        draw = rng(trial)
        effects = 0.01 * draw.normal(size=(8, 1))
        values = effects + 0.3 * draw.normal(size=(1, 400)) / 2 + 0.2 * draw.normal(size=(8, 400))
        low, high = estimate(list(values)).interval
        held += low <= 0 <= high
    assert held >= 88
