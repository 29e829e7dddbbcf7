import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from tiny_sets import ENVIRONMENT, batches_of, expected_sample, tiny_recipe, write_set

from genrep.shards.errors import DataError
from genrep.shards.layout import layout_of
from genrep.shards.table import read_facts, read_table
from genrep.shards.writer import DatasetWriter


def contents_of(folder):
    """Every file of a set with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stamps_of(folder):
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_finished_set_holds_these_files_and_no_other(tiny_set):
    assert list(contents_of(tiny_set)) == [
        ".tables/shard-000000.parquet", ".tables/shard-000001.parquet", ".tables/shard-000002.parquet",
        "README.md", "manifest.json", "recipe.json",
        "shard-000000.tar", "shard-000001.tar", "shard-000002.tar", "shards.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "recipe",
    [
        tiny_recipe(),
        tiny_recipe(views=(), channels=3),
        tiny_recipe(views=("gauss", "steer"), channels=3, image_format="webp"),
        tiny_recipe(num_samples=3, views=(), kind="imported"),
    ],
    ids=["pairs", "anchors", "two views", "imported"],
)
def test_every_sample_comes_back_from_the_tars(tmp_path, recipe):
    write_set(tmp_path / "set", recipe)
    index = 0
    for spec in layout_of(recipe).shards:
        with tarfile.open(tmp_path / "set" / spec.name) as file:
            members = [(member.name, file.extractfile(member).read()) for member in file]
        width = len(layout_of(recipe).members)
        for row in range(0, len(members), width):
            names, data = zip(*members[row : row + width], strict=True)
            assert list(names) == [f"{index:09d}.{member}" for member in layout_of(recipe).members]
            images, latents, label, meta = expected_sample(recipe, index)
            for image, encoded in zip(images, data, strict=False):
                found = np.asarray(Image.open(io.BytesIO(encoded)))
                assert np.array_equal(found[..., 0] if found.ndim > image[..., 0].ndim else found, image[..., 0])
            assert np.array_equal(np.load(io.BytesIO(data[-3])), latents)
            assert data[-2] == b"%d" % label
            assert json.loads(data[-1]) == meta
            index += 1
    assert index == recipe["num_samples"]


def test_the_tables_give_place_size_hash_and_strengths_of_every_member(tiny_set, recipe):
    layout = layout_of(recipe)
    for spec in layout.shards:
        archive = (tiny_set / spec.name).read_bytes()
        table = read_table(tiny_set / spec.table, members=layout.members, num_samples=spec.count)
        assert table.facts.tar_sha256 == hashlib.sha256(archive).hexdigest()
        assert table.facts.tar_bytes == len(archive)
        assert table.facts.environment == ENVIRONMENT
        assert list(table.keys) == spec.keys
        indices = range(spec.first, spec.first + spec.count)
        assert table.labels.tolist() == [index % 2 for index in indices]
        assert table.columns["view1.zoom"].tolist() == [index / 16 for index in indices]
        with tarfile.open(tiny_set / spec.name) as file:
            for number, found in enumerate(file):
                row, member = number // len(layout.members), layout.members[number % len(layout.members)]
                content = file.extractfile(found).read()
                assert (table.offsets[member][row], table.sizes[member][row]) == (found.offset_data, found.size)
                assert table.digests[member][row].tobytes() == hashlib.sha256(content).digest()


@pytest.mark.parametrize(("batch_size", "encode_workers"), [(1, 1), (4, 1), (2, 4), (100, 2)])
def test_batches_and_workers_do_not_change_a_byte(tmp_path, tiny_set, recipe, batch_size, encode_workers):
    write_set(tmp_path / "again", recipe, batch_size=batch_size, encode_workers=encode_workers)
    assert contents_of(tmp_path / "again") == contents_of(tiny_set)


def test_shards_may_be_written_in_any_order_by_several_writers(tmp_path, tiny_set, recipe):
    first, second = (DatasetWriter(tmp_path / "again", recipe, licence="MIT") for _ in range(2))
    for writer, number in [(first, 2), (second, 0), (first, 1)]:
        spec = writer.missing_shards()[-1] if number else writer.missing_shards()[0]
        writer.write_shard(spec, batches_of(recipe, spec), ENVIRONMENT)
    assert first.missing_shards() == second.missing_shards() == []
    assert first.finish() == second.finish()
    assert contents_of(tmp_path / "again") == contents_of(tiny_set)


def test_a_finished_set_is_left_as_it_is(tiny_set, recipe):
    (tiny_set / "README.md").write_text("a card that somebody wrote")
    before = stamps_of(tiny_set)
    write_set(tiny_set, recipe)
    writer = DatasetWriter(tiny_set, recipe)

    def unwanted():
        raise AssertionError("a shard that is there needs no batches")
        yield

    for spec in layout_of(recipe).shards:
        writer.write_shard(spec, unwanted(), ENVIRONMENT)
    assert stamps_of(tiny_set) == before


def test_a_shard_that_another_process_finished_meanwhile_stays_as_it_is(tmp_path, recipe):
    slow, fast = (DatasetWriter(tmp_path / "set", recipe) for _ in range(2))
    spec = slow.missing_shards()[0]
    stamps = {}

    def overtaken():
        fast.write_shard(spec, batches_of(recipe, spec), {"torch": "another"})
        stamps.update(stamps_of(tmp_path / "set"))
        yield from batches_of(recipe, spec)

    slow.write_shard(spec, overtaken(), ENVIRONMENT)
    assert stamps_of(tmp_path / "set") == stamps


def test_a_missing_shard_is_made_again_alone(tiny_set, recipe):
    before = contents_of(tiny_set)
    (tiny_set / "shard-000001.tar").unlink()
    stamps = stamps_of(tiny_set)
    assert [spec.name for spec in DatasetWriter(tiny_set, recipe).missing_shards()] == ["shard-000001.tar"]
    write_set(tiny_set, recipe)
    assert contents_of(tiny_set) == before
    rewritten = {name for name, stamp in stamps_of(tiny_set).items() if stamps.get(name) != stamp}
    assert rewritten == {"shard-000001.tar", "shard-000001.parquet"}


def test_another_recipe_is_refused_with_the_fields_that_differ_and_both_values(tiny_set, recipe):
    before = contents_of(tiny_set)
    other = {**recipe, "seed": 1, "image": {**recipe["image"], "height": 10}, "walks": {"names": ["zoom"] * 100}}
    with pytest.raises(DataError) as caught:
        DatasetWriter(tiny_set, other)
    message = str(caught.value)
    assert "seed is 0 there and 1 here" in message
    assert "image.height is 9 there and 10 here" in message
    assert "walks is null there and {" in message
    assert "num_samples" not in message
    assert "\n" not in message
    assert len(message) < 500
    assert contents_of(tiny_set) == before


def test_tuples_and_their_json_are_the_same_recipe(tmp_path, recipe):
    DatasetWriter(tmp_path / "set", {**recipe, "classes": (0, 1)})
    DatasetWriter(tmp_path / "set", {**recipe, "classes": [0, 1]})


def test_a_folder_with_other_files_is_not_taken_over(tmp_path, recipe):
    (tmp_path / "README.md").write_text("of a project")
    with pytest.raises(DataError, match=r"holds README\.md and no recipe\.json: choose a new or an empty folder"):
        DatasetWriter(tmp_path, recipe)
    assert list(contents_of(tmp_path)) == ["README.md"]


def test_a_set_is_not_finished_while_shards_are_missing(tmp_path, recipe):
    writer = DatasetWriter(tmp_path / "set", recipe)
    spec = writer.missing_shards()[1]
    writer.write_shard(spec, batches_of(recipe, spec), ENVIRONMENT)
    with pytest.raises(DataError, match=r"lacks 2 of 3 shards, first shard-000000\.tar: run the same command"):
        writer.finish()
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.parametrize("damage", ["short", "no table"])
def test_a_shard_damaged_after_it_was_written_is_not_built_upon(tiny_set, recipe, damage):
    if damage == "short":
        (tiny_set / "shard-000001.tar").write_bytes(bytes(512))
    else:
        (tiny_set / ".tables/shard-000001.parquet").unlink()
    with pytest.raises(DataError, match="shard-000001"):
        DatasetWriter(tiny_set, recipe).missing_shards()


def test_batches_that_are_not_those_of_the_shard_are_a_bug(tmp_path, recipe):
    writer = DatasetWriter(tmp_path / "set", recipe)
    first, second, _ = writer.missing_shards()
    grown = tiny_recipe(height=10)
    for batches in (batches_of(recipe, second), list(batches_of(recipe, first))[:1], batches_of(grown, first)):
        with pytest.raises(ValueError, match="sample"):
            writer.write_shard(first, batches, ENVIRONMENT)
    assert list(contents_of(tmp_path / "set")) == ["recipe.json"]


def test_the_licence_and_each_environment_stand_in_the_manifest(tmp_path, recipe):
    writer = DatasetWriter(tmp_path / "set", recipe, licence="CC-BY-4.0")
    for number, spec in enumerate(writer.missing_shards()):
        writer.write_shard(spec, batches_of(recipe, spec), {"torch": number})
    manifest = writer.finish()
    assert manifest.licence == "CC-BY-4.0"
    assert [shard.environment for shard in manifest.shards] == [{"torch": 0}, {"torch": 1}, {"torch": 2}]
    assert read_facts(tmp_path / "set" / ".tables" / "shard-000001.parquet").environment == {"torch": 1}


def test_the_readme_stays_markdown_whatever_a_recipe_is_called(tmp_path, recipe):
    recipe["generator"]["name"] = "x`\n---\n<script>alert(1)</script>"
    write_set(tmp_path / "set", recipe, licence="[a](javascript:b)")
    text = (tmp_path / "set" / "README.md").read_text()
    assert "<script" not in text
    assert "](" not in text
    assert text.count("\n---\n") == 1
