import numpy as np
import pytest

from genrep.evaluate.average_precision import ranking


def test_a_ranking_worked_out_by_hand():
    """Found: yes, no, yes, no, yes, of four: precision 1, 2/3, 3/5 at recall 1/4, 2/4, 3/4; one is never found."""
    scores, positive = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, False, True])
    curve = ranking(scores, positive).curve(total=4)
    # recall 0, 0.1, 0.2 -> 1; 0.3, 0.4, 0.5 -> 2/3; 0.6, 0.7 -> 3/5; 0.8, 0.9, 1 -> 0
    assert curve.at_points(11) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)
    assert curve.area == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)


def test_precision_is_the_best_at_this_recall_or_a_higher_one():
    """no, yes, yes: precision 1/2, 2/3, so that the interpolated curve is 2/3 throughout."""
    curve = ranking(np.array([3.0, 2.0, 1.0]), np.array([False, True, True])).curve()
    assert curve.at_points(11) == pytest.approx(2 / 3)
    assert curve.area == pytest.approx(2 / 3)


def literal(scores, positive, points):
    """Everingham et al. 2010, equations 1 and 2, threshold by threshold."""
    pairs = []
    for threshold in sorted(set(scores), reverse=True):
        chosen = [p for s, p in zip(scores, positive, strict=True) if s >= threshold]
        pairs.append((sum(chosen), sum(chosen) / len(chosen)))
    total = sum(positive)
    return (
        sum(max((p for hits, p in pairs if hits * (points - 1) >= k * total), default=0) for k in range(points))
        / points
    )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("points", [11, 101])
def test_at_points_equals_the_literal_definition(seed, points):
    rng = np.random.Generator(np.random.PCG64(seed))
    scores = rng.integers(0, 12, 40) / 7  # with equal ones
    positive = rng.random(40) < 0.3
    assert ranking(scores, positive).curve().at_points(points) == pytest.approx(literal(scores, positive, points))


def test_the_area_is_that_of_scikit_learn_where_no_interpolation_is_needed():
    """On curves that only fall: all positives first in each score, so precision never rises with recall."""
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve

    rng = np.random.Generator(np.random.PCG64(0))
    positive = np.repeat([True, False, True, False, True, False], [5, 1, 3, 3, 2, 9])
    scores = np.sort(rng.random(23))[::-1]
    precision, recall, _ = precision_recall_curve(positive, scores)
    interpolated = np.maximum.accumulate(precision)  # recall falls along the curve
    steps = -np.diff(recall) @ interpolated[:-1]
    own = ranking(scores, positive).curve().area
    assert own == pytest.approx(steps)
    assert average_precision_score(positive, scores) <= own
    assert own == pytest.approx(auc(recall, interpolated), abs=0.05)


def test_equal_scores_count_together_whatever_their_order():
    scores, positive = np.array([1.0, 1.0, 0.5]), np.array([False, True, True])
    flipped = ranking(scores, positive[[1, 0, 2]]).curve()
    assert ranking(scores, positive).curve().area == flipped.area == pytest.approx(0.5 * 2 / 3 + 0.5 * 2 / 3)


def test_counts_stand_for_repeated_items():
    rng = np.random.Generator(np.random.PCG64(1))
    scores, positive, counts = rng.random(30), rng.random(30) < 0.4, rng.integers(0, 3, 30)
    counted = ranking(scores, positive).curve(counts=counts)
    repeated = ranking(np.repeat(scores, counts), np.repeat(positive, counts)).curve()
    assert counted.at_points(11) == pytest.approx(repeated.at_points(11))
    assert counted.area == pytest.approx(repeated.area)


def test_a_perfect_ranking_has_1():
    curve = ranking(np.arange(5)[::-1].astype(float), np.array([True, True, False, False, False])).curve()
    assert (curve.at_points(11), curve.at_points(101), curve.area) == (1, 1, 1)
