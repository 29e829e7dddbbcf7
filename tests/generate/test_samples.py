import dataclasses
import json

import numpy as np
import pytest

from genrep.generate.defaults import make_recipe
from genrep.generate.generators import load_generator
from genrep.generate.samples import describe_samples, draw_samples, strength_columns
from genrep.generate.walks import Walks

VIEWS = ("gauss", "independent", "angular", "uniform", "steer", "gauss+steer", "independent+uniform")

PINNED = [  # the last coordinate of the anchor and of each view
    "0x1.03498a0000000p+0",
    "0x1.1eac9c0000000p-3",
    "-0x1.dd300a0000000p-2",
    "0x1.e492680000000p-1",
    "0x1.a6ffe00000000p-1",
    "0x1.3e64ae0000000p-1",
    "0x1.5ad7960000000p-1",
    "-0x1.7dfa0c0000000p+0",
]


@pytest.fixture
def recipe(walks):
    return make_recipe(load_generator("stub_generators:conditional"), views=VIEWS, walks=walks, num_samples=40)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_samples_are_the_same_however_they_are_batched(recipe, batch_size):
    whole = draw_samples(recipe, range(40))
    parts = [draw_samples(recipe, range(start, min(start + batch_size, 40))) for start in range(0, 40, batch_size)]
    for name in ("latents", "labels", "noise_seeds"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    for view, strengths in enumerate(whole.strengths):
        for direction, values in strengths.items():
            np.testing.assert_array_equal(np.concatenate([part.strengths[view][direction] for part in parts]), values)


def test_samples_are_a_prefix_of_those_of_a_larger_set(recipe, walks):
    larger = make_recipe(load_generator("stub_generators:conditional"), views=VIEWS, walks=walks, num_samples=80)
    np.testing.assert_array_equal(draw_samples(recipe, range(40)).latents, draw_samples(larger, range(80)).latents[:40])


def test_one_more_view_leaves_the_others_as_they_are(recipe):
    fewer = make_recipe(load_generator("stub_generators:conditional"), views=VIEWS[:4])
    np.testing.assert_array_equal(draw_samples(fewer, range(9)).latents, draw_samples(recipe, range(9)).latents[:, :5])


def test_a_composed_view_is_the_sum_of_its_moves(walks):
    generator = load_generator("stub_generators:conditional")
    recipe = make_recipe(generator, views=("gauss+steer",), walks=walks, std=0.25)
    drawn = draw_samples(recipe, range(30))
    alone = draw_samples(make_recipe(generator, views=("gauss",), std=0.25), range(30)).latents[:, 1]
    strengths = np.stack(list(drawn.strengths[0].values()), axis=1)
    np.testing.assert_allclose(drawn.latents[:, 1], alone + strengths @ walks.directions, atol=1e-6)


@pytest.mark.parametrize("kind", ["gauss", "uniform", "independent", "steer"])
def test_a_move_held_to_a_block_is_the_whole_move_there_and_none_elsewhere(kind, walks):
    generator = load_generator("stub_generators:blocked")
    options = {"walks": walks} if kind == "steer" else {}
    whole = draw_samples(make_recipe(generator, views=(kind,), **options), range(30)).latents
    for where, inside in (("1", [1, 2, 3]), ("c0/2", [0, 2])):
        held = draw_samples(make_recipe(generator, views=(f"{kind}@{where}",), **options), range(30)).latents
        for coordinate in range(4):
            expected = whole[:, 1 if coordinate in inside else 0, coordinate]
            np.testing.assert_array_equal(held[:, 1, coordinate], expected)


def test_an_angular_move_held_to_a_block_keeps_the_norm_of_the_block():
    recipe = make_recipe(load_generator("stub_generators:blocked"), views=("angular@1",))
    latents = draw_samples(recipe, range(30)).latents
    np.testing.assert_array_equal(latents[:, 1, 0], latents[:, 0, 0])
    norms = np.linalg.norm(latents[:, :, 1:], axis=2)
    np.testing.assert_allclose(norms[:, 1], norms[:, 0], rtol=1e-6)
    assert (latents[:, 1, 1:] != latents[:, 0, 1:]).all()


def test_moves_held_to_different_blocks_are_composed():
    generator = load_generator("stub_generators:blocked")
    drawn = {
        name: draw_samples(make_recipe(generator, views=(name,)), range(30)).latents[:, 1]
        for name in ("independent@0+gauss@1", "independent", "gauss")
    }
    composed = drawn.pop("independent@0+gauss@1")
    np.testing.assert_array_equal(composed[:, 0], drawn["independent"][:, 0])
    np.testing.assert_array_equal(composed[:, 1:], drawn["gauss"][:, 1:])


def test_recipe_and_json_tell_which_coordinates_moved():
    recipe = make_recipe(load_generator("stub_generators:blocked"), views=("gauss", "uniform@0+gauss@c1/3"))
    assert recipe.to_json()["views"] == ["gauss", "uniform@0+gauss@c1/3"]
    assert recipe.to_json()["generator"]["blocks"] == [1, 3]
    first, second = json.loads(json.dumps(describe_samples(recipe, draw_samples(recipe, range(1)))))[0]["views"]
    assert first == {"kind": "gauss", "std": 0.5}
    assert second == {
        "kind": "uniform@0+gauss@c1/3",
        "std": 0.5,
        "coordinates": {"uniform": [[0, 0]], "gauss": [[1, 1], [3, 3]]},
    }


def test_in_w_plus_walks_of_w_move_the_chosen_layers():
    """Three layers of a w with two coordinates."""

    def layered(latents, labels):
        return np.tile(latents[:, :2], (1, 3))

    walks = Walks(("zoom",), np.array([[1, -2]], np.float32), "w", "", {"zoom": 0.2}, {"zoom": "ln"})
    plain = make_recipe(load_generator("stub_generators:mapped"), latent_space="w", views=())
    source = dataclasses.replace(plain.generator, latent_space="w+", blocks=(2, 2, 2))
    recipe = dataclasses.replace(plain, generator=source, views=("steer@1-2",), walks=walks)
    drawn = draw_samples(recipe, range(9), map_latents=layered)
    moved = drawn.latents[:, 1] - drawn.latents[:, 0]
    strengths = drawn.strengths[0]["zoom"][:, None]
    np.testing.assert_allclose(moved, strengths * np.array([[0, 0, 1, -2, 1, -2]]), atol=1e-6)


def test_a_generator_may_ask_for_views_that_keep_the_variance():
    generator = load_generator("stub_generators:keeps_variance")
    recipe = make_recipe(generator, views=("gauss", "uniform", "gauss@c0-1"), std=0.6, num_samples=20_000)
    assert recipe.to_json()["generator"]["keeps_variance"] is True
    assert describe_samples(recipe, draw_samples(recipe, range(1)))[0]["views"][0] == {
        "kind": "gauss",
        "std": 0.6,
        "keeps_variance": True,
    }
    latents = draw_samples(recipe, range(20_000)).latents
    np.testing.assert_allclose(latents.std(axis=0), 1, atol=0.03)
    for view in (1, 2):
        assert np.corrcoef(latents[:, 0, 0], latents[:, view, 0])[0, 1] == pytest.approx(0.8, abs=0.02)
    np.testing.assert_array_equal(latents[:, 3, 2:], latents[:, 0, 2:])


def test_an_independent_view_is_another_draw_from_the_prior(recipe):
    latents = draw_samples(recipe, range(1000)).latents
    anchors, independent = latents[:, 0], latents[:, 1 + VIEWS.index("independent")]
    assert independent.std() == pytest.approx(1, rel=0.03)
    assert abs(np.corrcoef(anchors.ravel(), independent.ravel())[0, 1]) < 0.05


def test_truncation_scales_the_prior_and_the_noise_about_it():
    """As in the authors' data sets: w = truncation * sigma * TN (paper.md 2.2)."""
    generator = load_generator("stub_generators:wide")
    full = draw_samples(make_recipe(generator, std=0.3), range(50)).latents.astype(np.float64)
    half = draw_samples(make_recipe(generator, std=0.3, truncation=0.5), range(50)).latents
    np.testing.assert_allclose(half, 0.5 * full, atol=1e-6)


def test_a_generator_that_truncates_by_itself_gets_the_whole_prior():
    generator = load_generator("stub_generators:mapped")
    np.testing.assert_array_equal(
        draw_samples(make_recipe(generator, truncation=0.5), range(9)).latents,
        draw_samples(make_recipe(generator), range(9)).latents,
    )


def test_in_w_the_anchor_is_mapped_and_the_walk_starts_there():
    recipe = make_recipe(
        load_generator("stub_generators:mapped"), latent_space="w", views=("gauss", "independent"), std=0.1
    )
    in_z = make_recipe(load_generator("stub_generators:mapped"), views=("gauss", "independent"), std=0.1)

    def doubled(latents, labels):
        return np.concatenate([2 * latents, labels[:, None]], axis=1).astype(np.float32)

    drawn, plain = draw_samples(recipe, range(300), map_latents=doubled), draw_samples(in_z, range(300))
    assert drawn.latents.shape == (300, 3, 5)
    for view in (0, 2):
        np.testing.assert_array_equal(drawn.latents[:, view], doubled(plain.latents[:, view], plain.labels))
    assert (drawn.latents[:, 1] - drawn.latents[:, 0]).std() == pytest.approx(0.1, rel=0.05)


def test_noise_seeds_are_shared_by_the_views_unless_each_is_to_have_its_own():
    generator = load_generator("stub_generators:noisy")
    shared = draw_samples(make_recipe(generator, num_samples=5), range(5)).noise_seeds
    fresh = draw_samples(make_recipe(generator, num_samples=5, fresh_noise=True), range(5)).noise_seeds
    assert (shared[:, 0] == shared[:, 1]).all()
    assert len(np.unique(fresh)) == 10
    np.testing.assert_array_equal(fresh[:, 0], shared[:, 0])


def test_the_json_and_the_columns_hold_the_very_strengths_that_moved_the_latent(recipe, walks):
    drawn = draw_samples(recipe, range(6))
    meta = json.loads(json.dumps(describe_samples(recipe, drawn)))
    columns = strength_columns(recipe, drawn)
    assert list(columns) == ["view5.zoom", "view5.shift", "view6.zoom", "view6.shift"]
    for row, sample in enumerate(meta):
        assert sample["index"] == row
        assert sample["class"] == ("ant", "bee", "sea cat")[drawn.labels[row]]
        assert [view["kind"] for view in sample["views"]] == list(VIEWS)
        assert sample["views"][0] == {"kind": "gauss", "std": 0.5}
        assert sample["views"][1] == {"kind": "independent"}
        strengths = sample["views"][4]["strengths"]
        assert columns["view5.shift"][row] == np.float32(strengths["shift"])
        moved = drawn.latents[row, 0].astype(np.float64)
        moved += strengths["zoom"] * walks.directions[0].astype(np.float64)
        moved += strengths["shift"] * walks.directions[1].astype(np.float64)
        np.testing.assert_array_equal(drawn.latents[row, 5], moved.astype(np.float32))


def test_a_sample_without_class_says_null():
    recipe = make_recipe(load_generator("stub_generators:unconditional"), views=())
    drawn = draw_samples(recipe, range(2))
    assert drawn.labels.tolist() == [-1, -1]
    assert describe_samples(recipe, drawn)[1] == {"index": 1, "class": None, "views": []}


def test_chosen_classes_have_exact_quotas():
    recipe = make_recipe(load_generator("stub_generators:conditional"), classes=(0, 2))
    labels = draw_samples(recipe, range(101)).labels
    assert sorted(np.bincount(labels, minlength=3).tolist()) == [0, 50, 51]


def test_every_view_is_pinned_to_the_bit(recipe):
    """A change here is another data set under the same recipe."""
    last = draw_samples(recipe, range(12_345, 12_346)).latents[0, :, 3]
    assert [value.hex() for value in last.tolist()] == PINNED
