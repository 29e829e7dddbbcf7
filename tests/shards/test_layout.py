import pytest

from genrep.shards.errors import DataError
from genrep.shards.layout import default_shard_size, key, layout_of, members, plan_shards


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(28, 28, 4096), (64, 64, 4096), (64, 65, 2048), (128, 128, 2048), (256, 256, 1024), (384, 512, 256)],
)
def test_the_default_shard_size_follows_the_longer_side(height, width, size):
    assert default_shard_size(height, width) == size


@pytest.mark.parametrize(("num_samples", "shard_size"), [(1, 4096), (8, 4), (9, 4), (11, 1)])
def test_the_shards_of_a_plan_hold_every_sample_once_in_order(num_samples, shard_size):
    plan = plan_shards(num_samples, shard_size)
    assert [i for spec in plan for i in range(spec.first, spec.first + spec.count)] == list(range(num_samples))
    assert all(spec.count == shard_size for spec in plan[:-1])
    assert [spec.name for spec in plan] == [f"shard-{number:06d}.tar" for number in range(len(plan))]


def test_a_set_that_grew_keeps_the_shards_it_had_and_its_short_ones():
    plan = plan_shards(10, 4, segments=[5, 4, 1])
    assert [(spec.first, spec.count) for spec in plan] == [(0, 4), (4, 1), (5, 4), (9, 1)]
    assert plan[:2] == plan_shards(5, 4)
    assert [spec.name for spec in plan] == [f"shard-{number:06d}.tar" for number in range(4)]


def test_views_added_to_a_parent_are_numbered_after_its_own_and_have_no_anchor(recipe):
    parent = {"manifest_sha256": "0" * 64, "views": ["gauss", "steer"]}
    layout = layout_of({**recipe, "views": ["uniform", "steer"], "parent": parent})
    assert layout.members == ["view3.png", "view4.png", "latents.npy", "cls", "json"]
    assert layout.num_images == 2


def test_keys_and_members_are_those_of_the_format():
    assert key(123) == "000000123"
    assert members(range(3), "jpg") == ["anchor.jpg", "view1.jpg", "view2.jpg", "latents.npy", "cls", "json"]
    (spec,) = plan_shards(2, 4)
    assert spec.keys == ["000000000", "000000001"]
    assert spec.table == ".tables/shard-000000.parquet"


@pytest.mark.parametrize(("num_samples", "shard_size"), [(0, 1), (10**9 + 1, 4096), (10**9, 1), (10, 0)])
def test_a_set_whose_names_would_run_out_of_digits_is_refused(num_samples, shard_size):
    with pytest.raises(DataError):
        plan_shards(num_samples, shard_size)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "genrep/2"),
        ("num_samples", "10"),
        ("num_samples", True),
        ("shard_size", 0),
        ("shard_size", 2**20 + 1),
        ("views", None),
        ("views", "gauss"),
        ("views", ["gauss"] * 1001),
        ("segments", [4, 5]),
        ("segments", [11, -1]),
        ("segments", ["10"]),
        ("segments", 10),
        ("parent", "../parent"),
        ("parent", {"manifest_sha256": "0" * 64}),
        ("parent", {"manifest_sha256": "../..", "views": []}),
        ("parent", {"manifest_sha256": "0" * 64, "views": ["gauss"] * 1000}),
        ("image", {"format": "png", "quality": None, "height": 10**6, "width": 10**6, "channels": 1}),
        ("image", {}),
        ("image", {"format": "bmp", "quality": None, "height": 9, "width": 7, "channels": 1}),
        ("image", {"format": "png", "quality": None, "height": 9, "width": 7, "channels": 4}),
        ("image", {"format": "png", "quality": None, "height": 9, "width": 7, "channels": 3, "subsampling": "4:2:0"}),
        ("image", {"format": "jpg", "quality": None, "height": 9, "width": 7, "channels": 3, "subsampling": 420}),
    ],
)
def test_a_recipe_without_a_usable_layout_is_refused(recipe, field, value):
    with pytest.raises(DataError, match="recipe"):
        layout_of({**recipe, field: value})
