import copy
import dataclasses
import json

import numpy as np
import pytest

from genrep.generate.defaults import check_fit, make_recipe
from genrep.generate.generators import load_generator
from genrep.generate.recipe import Recipe, read_recipe
from genrep.shards.errors import DataError


@pytest.fixture
def generator():
    return load_generator("stub_generators:conditional")


def test_a_recipe_survives_json(generator, walks):
    recipe = make_recipe(generator, views=("gauss", "gauss+steer"), walks=walks, classes=(0, 2), seed=2**63)
    plain = json.loads(json.dumps(recipe.to_json()))
    assert Recipe.from_json(plain).to_json() == plain == recipe.to_json()


def test_the_json_has_the_fields_that_readers_rely_on(generator):
    plain = make_recipe(generator, num_samples=20).to_json()
    assert list(plain)[:2] == ["format", "kind"]
    assert (plain["format"], plain["kind"], plain["num_samples"], plain["shard_size"]) == (
        "genrep/1",
        "generated",
        20,
        4096,
    )
    assert plain["views"] == ["gauss"]
    assert plain["std"] == 0.5
    assert (plain["walks"], plain["classes"]) == (None, None)
    assert plain["generator"]["name"] == "stub_generators:conditional"
    assert plain["generator"]["class_names"] == ["ant", "bee", "sea cat"]
    assert plain["render"]["threads"] == 1
    assert plain["image"] == {"format": "png", "quality": None, "resize": None, "height": 8, "width": 8, "channels": 1}


@pytest.mark.parametrize(
    ("options", "part", "expected"),
    [
        ({}, "std", 0.5),
        ({"std": 0.0}, "std", 0.0),
        ({"views": ()}, "std", None),
        ({"views": ("independent",)}, "std", None),
        ({"shard_size": 100}, "micro_batch", 50),
        ({"shard_size": 4096}, "micro_batch", 64),
        ({"shard_size": 7}, "micro_batch", 7),
        ({"image_format": "jpg"}, "quality", 95),
        ({"image_format": "webp"}, "quality", None),
        ({"resize": 4}, "height", 4),
        ({"truncation": 0.5}, "prior_scale", 0.5),
    ],
)
def test_what_is_left_out_gets_its_default(generator, options, part, expected):
    plain = make_recipe(generator, **options).to_json()
    flat = {**plain, **plain["render"], **plain["generator"], **plain["image"]}
    assert flat[part] == expected


def test_resizing_keeps_the_proportions_of_an_image_that_is_not_square():
    image = make_recipe(load_generator("stub_generators:wide"), resize=4).image
    assert (image.height, image.width) == (4, 6)


def test_subsampling_stands_in_the_recipe_where_colours_are_subsampled_and_only_there():
    wide = load_generator("stub_generators:wide")
    full, half = (make_recipe(wide, image_format="jpg", subsampling=which) for which in ("4:4:4", "4:2:0"))
    assert "subsampling" not in full.to_json()["image"]
    assert half.to_json()["image"]["subsampling"] == "4:2:0"
    assert [Recipe.from_json(recipe.to_json()) for recipe in (full, half)] == [full, half]
    assert full.folder_name() != half.folder_name()


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("conditional", {"num_samples": 0}, "num_samples must lie in 1..1000000000, got 0"),
        ("conditional", {"truncation": 0}, "truncation must lie in (0, 1], got 0"),
        ("conditional", {"truncation": 1.5}, "truncation must lie in (0, 1], got 1.5"),
        ("conditional", {"truncation": float("nan")}, "truncation must lie in (0, 1], got nan"),
        ("conditional", {"std": -1}, "std must lie in 0..100, got -1"),
        ("conditional", {"std": 1.0, "views": ("independent",)}, "independent would not use it"),
        ("conditional", {"views": ("gaus",)}, "'gaus' is no kind of view; known: none, gauss"),
        ("conditional", {"views": ("steer",)}, "ships no walks: name a file with --walks"),
        ("conditional", {"latent_space": "w"}, "renders from z, not from 'w'"),
        ("conditional", {"classes": (3,)}, "ascending numbers below 3, got [3]"),
        ("conditional", {"classes": (1, 0)}, "ascending numbers below 3"),
        ("conditional", {"classes": ()}, "classes is empty"),
        ("unconditional", {"classes": (0,)}, "is unconditional"),
        ("conditional", {"shard_size": 100, "micro_batch": 64}, "shard size 100 is no multiple of the micro-batch 64"),
        ("conditional", {"shard_size": 0}, "shard_size must lie in 1..1048576, got 0"),
        ("conditional", {"micro_batch": 0}, "micro_batch must lie in 1..4096, got 0"),
        ("conditional", {"image_format": "gif"}, "image format 'gif' is not known; known: png, jpg, webp"),
        ("conditional", {"image_format": "png", "quality": 90}, "png is lossless"),
        ("conditional", {"image_format": "jpg", "quality": 101}, "quality must lie in 1..100, got 101"),
        ("conditional", {"image_format": "png", "subsampling": "4:2:0"}, "is for jpg of 3 channels"),
        ("conditional", {"image_format": "jpg", "subsampling": "4:2:2"}, "'4:2:2' is not known; known: 4:4:4, 4:2:0"),
        ("conditional", {"dtype": "float64"}, "dtype 'float64' is not known"),
        ("conditional", {"backend": "onnxruntime", "compile": True}, "renders in float32 and compiles by itself"),
        ("conditional", {"backend": "onnxruntime", "dtype": "bfloat16"}, "leave dtype and compile out"),
        ("conditional", {"resize": 9}, "resize to 9 px: the generator's short side is 8 px"),
        ("conditional", {"seed": -1}, "seed must lie in 0..18446744073709551615, got -1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(name, options, complaint):
    with pytest.raises(DataError) as caught:
        make_recipe(load_generator(f"stub_generators:{name}"), **options)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"generator": "0" * 64}, "the walks are of another generator (fingerprint 000000000000)"),
        ({"latent_space": "w"}, "the walks move in w, the recipe renders in z"),
        ({"directions": np.ones((2, 5), np.float32)}, "the walks have 5 coordinates, a latent of"),
    ],
)
def test_walks_that_do_not_fit_the_generator_are_refused(generator, walks, change, complaint):
    with pytest.raises(DataError) as caught:
        make_recipe(generator, views=("steer",), walks=dataclasses.replace(walks, **change))
    assert complaint in str(caught.value)


def test_walks_in_w_must_have_the_size_of_a_mapped_latent(walks):
    mapped = load_generator("stub_generators:mapped")  # w has five coordinates
    in_w = dataclasses.replace(walks, latent_space="w")
    with pytest.raises(DataError, match=r"the walks have 4 coordinates, a latent of .* in w has 5"):
        make_recipe(mapped, views=("steer",), latent_space="w", walks=in_w)
    wide = dataclasses.replace(in_w, directions=np.ones((2, 5), np.float32))
    assert make_recipe(mapped, views=("steer",), latent_space="w", walks=wide).walks is wide


def test_walks_that_no_view_uses_are_refused(generator, walks):
    with pytest.raises(DataError, match="walks are for steer views; gauss would not use them"):
        make_recipe(generator, walks=walks)


def test_walks_of_the_very_generator_are_taken(generator, walks):
    own = dataclasses.replace(walks, generator=generator.fingerprint())
    assert make_recipe(generator, views=("steer",), walks=own).walks.names == ("zoom", "shift")


def edited(plain, path, value):
    plain = copy.deepcopy(plain)
    *parents, last = path.split(".")
    target = plain
    for parent in parents:
        target = target[parent]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return plain


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("format", "genrep/2", "not of format 'genrep/1'"),
        ("kind", "imported", "only a generated set can be generated again"),
        ("seed", KeyError, "field 'seed' is missing"),
        ("surprise", 1, "unknown field 'surprise'"),
        ("render.surprise", 1, "recipe.render: unknown field 'surprise'"),
        ("num_samples", "20", "recipe.num_samples: '20' is not of the type int"),
        ("num_samples", True, "recipe.num_samples: True is not of the type int"),
        ("num_samples", 10**400, "num_samples must lie in 1..1000000000"),
        ("std", 10**400, "recipe.std"),
        ("generator", [], "recipe.generator: must be an object"),
        ("generator.class_names", ["ant", 1, "bee"], "recipe.generator.class_names[1]: 1 is not of the type str"),
        ("generator.arguments", {"a": 1}, "recipe.generator.arguments.a"),
        ("generator.prior", "cauchy", "prior 'cauchy' is not known"),
        ("render.micro_batch", 0, "micro_batch must lie in 1..4096, got 0"),
        ("render.backend", "os:mkdir", "backend 'os:mkdir' is not known; known: torch, onnxruntime"),
        ("render.folding", "yes", "recipe.render.folding: 'yes' is not of the type bool"),
        ("image.height", 10**9, "height must lie in 1..16384"),
        ("std", None, "views gauss need a std"),
        ("views", ["steer"], "steer views need walks"),
        ("views", ["gauss"] * 10_000, "number of views must lie in 0..1000, got 10000"),
        ("views", ["x" * 10_000], "is no kind of view"),
        ("views", ["gauss@1"], "@1 must name blocks of the latent"),
        ("generator.blocks", [0, 4], "blocks must have a size"),
        ("generator.blocks", [1.5], "recipe.generator.blocks[0]: 1.5 is not of the type int"),
    ],
)
def test_an_edited_recipe_is_refused_by_the_name_of_the_field(generator, path, value, complaint):
    with pytest.raises(DataError) as caught:
        Recipe.from_json(edited(make_recipe(generator).to_json(), path, value))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"format": "genrep/1"}', "\xff\xfe"])
def test_a_file_that_is_no_recipe_is_refused_with_its_path(tmp_path, text):
    file = tmp_path / "recipe.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"recipe\.json: "):
        read_recipe(file)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_recipe(tmp_path / "recipe.json")


def test_a_recipe_fits_the_generator_it_was_made_for_and_no_other(generator):
    recipe = make_recipe(generator)
    check_fit(recipe, generator)
    with pytest.raises(DataError, match="does not fit the recipe: its fingerprint is"):
        check_fit(recipe, load_generator("stub_generators:conditional", arguments={"salt": "1"}))
    smaller = Recipe.from_json(edited(recipe.to_json(), "image.height", 7))
    with pytest.raises(DataError, match="8 x 8 px with 1 channels; the recipe's 7 x 8 px"):
        check_fit(smaller, generator)


def test_what_few_generators_need_is_recorded_only_where_it_matters():
    """So that the recipe of a plain view is what it was before there were others."""
    plain = make_recipe(load_generator("stub_generators:blocked")).to_json()
    assert not {"blocks", "keeps_variance"} & set(plain["generator"])
    held = make_recipe(load_generator("stub_generators:blocked"), views=("gauss@1",))
    kept = make_recipe(load_generator("stub_generators:keeps_variance"))
    assert Recipe.from_json(held.to_json()) == held != Recipe.from_json(plain)
    assert Recipe.from_json(kept.to_json()) == kept


def test_a_recipe_that_names_other_blocks_than_the_generator_has_does_not_fit():
    generator = load_generator("stub_generators:blocked")
    recipe = make_recipe(generator, views=("gauss@0",))
    check_fit(recipe, generator)
    other = Recipe.from_json(edited(recipe.to_json(), "generator.blocks", [2, 2]))
    with pytest.raises(DataError, match=r"its blocks is \(1, 3\), the recipe's \(2, 2\)"):
        check_fit(other, generator)


def test_latents_that_keep_their_variance_are_not_truncated():
    with pytest.raises(DataError, match=r"truncation is 0\.5, but latents of stub_.* keep their variance; leave it"):
        make_recipe(load_generator("stub_generators:keeps_variance"), truncation=0.5)


def test_views_that_keep_the_variance_have_a_std_of_at_most_one():
    with pytest.raises(DataError, match=r"std must lie in 0\.\.1, got 1\.5"):
        make_recipe(load_generator("stub_generators:keeps_variance"), std=1.5)


def test_the_folder_name_tells_the_recipe(generator, walks):
    def name(**options):
        return make_recipe(generator, **options).folder_name()

    assert name(num_samples=20).startswith("stub_generators-conditional-gauss-n20-seed0-")
    assert name(views=("steer", "steer"), walks=walks).startswith("stub_generators-conditional-steerx2-n1000-seed0-")
    assert name(views=()).startswith("stub_generators-conditional-none-n1000")
    assert name() == name() != name(truncation=0.5)


@pytest.mark.parametrize("option", [{"folding": True}, {"compile": True}, {"backend": "onnxruntime"}])
def test_how_a_network_is_run_is_part_of_the_identity(generator, option):
    plain, other = make_recipe(generator), make_recipe(generator, **option)
    assert plain.folder_name() != other.folder_name()
    assert other.to_json()["render"] == {**plain.to_json()["render"], **option}
    assert Recipe.from_json(other.to_json()) == other
