import numpy as np
import pytest

from genrep.evaluate.interval import spread, wilson


# the worked examples of Newcombe 1998, "Two-sided confidence intervals for the single proportion", method 3
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_proportion_is_wilsons(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_failures_mirrors_that_of_successes():
    low, high = wilson(81, 263)
    assert wilson(263 - 81, 263) == pytest.approx((1 - high, 1 - low))


def test_all_right_ends_at_one():
    assert wilson(20, 20)[1] == 1.0


def test_the_spread_of_draws_holds_their_middle_95_percent():
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(101) / 100
    assert spread(shuffled) == pytest.approx((0.025, 0.975))
