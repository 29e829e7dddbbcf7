import json

import pytest
from tiny_sets import ENVIRONMENT, tiny_recipe

from genrep.shards.errors import DataError
from genrep.shards.layout import plan_shards
from genrep.shards.manifest import build_manifest, manifest_bytes, read_manifest, read_recipe, wids_bytes
from genrep.shards.table import ShardFacts

PLAN = plan_shards(10, 4)
FACTS = {spec: ShardFacts(f"{number:064x}", 10_240 * (1 + number), ENVIRONMENT) for number, spec in enumerate(PLAN)}


def test_a_manifest_lists_shards_and_totals(recipe):
    manifest = json.loads(manifest_bytes(build_manifest(recipe, FACTS)))
    assert list(manifest) == ["format", "recipe", "licence", "totals", "shards"]
    assert manifest["recipe"] == recipe
    assert manifest["totals"] == {"samples": 10, "images": 20, "shards": 3, "bytes": 61_440}
    assert manifest["shards"][2] == {
        "name": "shard-000002.tar", "sha256": f"{2:064x}", "bytes": 30_720, "samples": 2, "first": 8, "count": 2,
        "environment": ENVIRONMENT,
    }  # fmt: skip


def test_the_index_for_wids_lists_every_shard(recipe):
    index = json.loads(wids_bytes(build_manifest(recipe, FACTS)))
    assert index["wids_version"] == 1
    assert [(shard["url"], shard["nsamples"]) for shard in index["shardlist"]] == [(s.name, s.count) for s in PLAN]


def test_a_manifest_comes_back_as_it_was_written(tiny_set, recipe):
    manifest = read_manifest(tiny_set)
    assert manifest_bytes(manifest) == (tiny_set / "manifest.json").read_bytes()
    assert manifest.recipe == read_recipe(tiny_set) == recipe
    assert manifest.num_samples == 10


def edited(change):
    def edit(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        edited(lambda m: m["shards"][0].update(name="../../x.tar")),
        edited(lambda m: m["shards"][0].update(name="http://example.org/shard-000000.tar")),
        edited(lambda m: m["shards"][0].update(count=5)),
        edited(lambda m: m["shards"][0].update(bytes=-1)),
        edited(lambda m: m["shards"][0].update(bytes="many")),
        edited(lambda m: m["shards"][0].update(sha256="0")),
        edited(lambda m: m["shards"][0].update(environment=[])),
        edited(lambda m: m["shards"][0].update(surprise=1)),
        edited(lambda m: m["shards"].pop()),
        edited(lambda m: m["totals"].update(bytes=1)),
        edited(lambda m: m["recipe"].update(seed=1)),
        edited(lambda m: m.update(shards=7)),
        edited(lambda m: m.pop("licence")),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text("[" * 10_000),
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_in_one_line(tiny_set, damage):
    damage(tiny_set)
    with pytest.raises(DataError, match=r"manifest\.json") as caught:
        read_manifest(tiny_set)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "recipe.json").unlink(),
        lambda folder: (folder / "recipe.json").write_text("nothing"),
        lambda folder: (folder / "recipe.json").write_text('{"a":' * 10_000),
        lambda folder: (folder / "recipe.json").write_text(json.dumps({**tiny_recipe(), "num_samples": 10**30})),
        lambda folder: (folder / "recipe.json").write_text(json.dumps({**tiny_recipe(), "views": 3})),
    ],
)
def test_a_folder_without_a_usable_recipe_is_no_set(tiny_set, damage):
    damage(tiny_set)
    with pytest.raises(DataError):
        read_manifest(tiny_set)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is no folder"):
        read_recipe(tmp_path / "nowhere")
