import numpy as np
import pytest

from genrep.generate import views
from genrep.generate.latents import anchor_latents
from genrep.shards.errors import DataError

ANCHORS = anchor_latents(0, range(400), dim=16)


def noise(kind, *, seed=0, view=1, prior="normal", indices=range(400)):
    return views.unit_noise(kind, seed, indices, view=view, dim=16, prior=prior)


@pytest.mark.parametrize(
    ("text", "num_views", "expected"),
    [
        ("none", None, ()),
        ("gauss", None, ("gauss",)),
        ("gauss", 3, ("gauss", "gauss", "gauss")),
        ("gauss,steer", None, ("gauss", "steer")),
        ("gauss,steer", 2, ("gauss", "steer")),
        ("gauss + steer, independent+uniform", None, ("gauss+steer", "independent+uniform")),
        ("gauss@0-1/4+steer@c0-39,uniform@3", None, ("gauss@0-1/4+steer@c0-39", "uniform@3")),
    ],
)
def test_views_are_written_as_kinds_joined_by_comma_and_plus(text, num_views, expected):
    assert views.parse_views(text, num_views) == expected


@pytest.mark.parametrize(
    ("text", "num_views", "complaint"),
    [
        ("gaus", None, "'gaus' is no kind of view; known: none, gauss, angular, uniform, independent, steer"),
        ("", None, "'' is no kind of view"),
        ("gauss,none", None, "'none' is no kind of view"),
        ("gauss+gauss", None, "names a kind twice"),
        ("gauss@0+gauss@1", None, "names a kind twice"),
        ("gauss@", None, "in 'gauss@', what follows @ must be blocks such as 0-1/4, or coordinates such as c0-39"),
        ("gauss@-1", None, "what follows @ must be blocks"),
        ("gauss@c", None, "what follows @ must be blocks"),
        ("gauss@0-1-2", None, "what follows @ must be blocks"),
        ("gauss@1@2", None, "what follows @ must be blocks"),
        ("gauss+independent", None, "put it first"),
        ("gauss,steer", 3, "names 2 views, 3 are asked for"),
        ("none", 2, "contradict"),
    ],
)
def test_what_is_no_view_is_refused_in_one_line(text, num_views, complaint):
    with pytest.raises(DataError) as caught:
        views.parse_views(text, num_views)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("0", ((0, 19),)),
        ("1-2", ((20, 49),)),
        ("0/3", ((0, 19), (50, 59))),
        ("c0-39", ((0, 39),)),
        ("c3/5-59", ((3, 3), (5, 59))),
    ],
)
def test_blocks_and_coordinates_become_ranges_of_coordinates(where, expected):
    assert views.ranges_of(where, (20, 20, 10, 10)) == expected


@pytest.mark.parametrize(
    ("where", "blocks", "complaint"),
    [
        ("4", (20, 20, 10, 10), "@4 must name blocks of the latent in ascending order, from 0 to 3"),
        ("2-1", (20, 20, 10, 10), "@2-1 must name blocks"),
        ("1/0", (20, 20, 10, 10), "@1/0 must name blocks"),
        ("0-1/1", (20, 20, 10, 10), "@0-1/1 must name blocks"),
        ("c60", (20, 20, 10, 10), "@c60 must name coordinates of the latent in ascending order, from 0 to 59"),
        ("1", (64,), "from 0 to 0 (all 64 coordinates; name coordinates as c0-63)"),
    ],
)
def test_blocks_that_a_latent_does_not_have_are_refused_in_one_line(where, blocks, complaint):
    with pytest.raises(DataError) as caught:
        views.ranges_of(where, blocks)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "prior", "deviation", "most"),
    [
        ("gauss", "normal", 1.0, 6.4),
        ("gauss", "truncated-normal", 0.8796, 2.0),
        ("angular", "normal", 1.0, 6.4),
        ("uniform", "normal", 1.0, 3**0.5),
        ("uniform", "truncated-normal", 1.0, 3**0.5),
    ],
)
def test_noise_has_the_deviation_and_the_bound_of_its_kind(kind, prior, deviation, most):
    values = noise(kind, prior=prior)
    assert values.std() == pytest.approx(deviation, rel=0.02)
    assert 0.9 * min(most, 3.5) < np.abs(values).max() <= most


def test_kinds_views_and_seeds_have_noise_of_their_own():
    draws = [noise("gauss"), noise("angular"), noise("gauss", view=2), noise("gauss", seed=1)]
    for number, first in enumerate(draws):
        for second in draws[number + 1 :]:
            assert not np.any(first == second)


def test_a_gaussian_view_is_its_anchor_plus_noise_of_the_given_strength():
    moved = views.gaussian_walk(ANCHORS, noise("gauss"), std=0.25)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved - ANCHORS, 0.25 * noise("gauss"), atol=1e-6)


@pytest.mark.parametrize("std", [0.0, 0.2, 0.6, 1.0])
def test_a_gaussian_view_can_keep_the_variance_of_its_anchor(std):
    moved = views.gaussian_walk(ANCHORS, noise("gauss"), std=std, kept=(1 - std**2) ** 0.5)
    assert moved.std() == pytest.approx(ANCHORS.std(), rel=0.02)
    assert np.corrcoef(moved.ravel(), ANCHORS.ravel())[0, 1] == pytest.approx((1 - std**2) ** 0.5, abs=0.02)


def test_an_angular_view_keeps_the_norm_of_each_row():
    moved = views.angular_walk(ANCHORS, noise("angular"), std=1.0)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), np.linalg.norm(ANCHORS, axis=1), rtol=1e-6)
    cosine = (moved * ANCHORS).sum(1) / (moved**2).sum(1) ** 0.5 / (ANCHORS**2).sum(1) ** 0.5
    assert np.mean(cosine) == pytest.approx(0.707, abs=0.03)  # paper.md 2.1


def test_strengths_lie_on_the_millionths_between_minus_one_and_one():
    drawn = views.strengths(0, range(5000), view=1, names=("zoom", "shift"))
    assert list(drawn) == ["zoom", "shift"]
    for values in drawn.values():
        np.testing.assert_array_equal(values, np.round(values * 1e6) / 1e6)
        assert np.abs(values).max() <= 1
        assert values.std() == pytest.approx(3**-0.5, rel=0.03)
    assert abs(np.corrcoef(drawn["zoom"], drawn["shift"])[0, 1]) < 0.05


def test_a_steered_view_moves_along_the_directions_by_its_strengths():
    directions = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    strengths = views.strengths(0, range(400), view=1, names=("zoom", "shift"))
    moved = views.steered_walk(ANCHORS, directions, strengths)
    expected = ANCHORS + np.stack(list(strengths.values()), axis=1) @ directions
    np.testing.assert_allclose(moved, expected, atol=1e-5)
