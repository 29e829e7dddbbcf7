"""Reading a finished set back: random access, errors that name the place, bounded resources."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tiny_sets import ENVIRONMENT, batches_of, expected_sample, tiny_recipe, write_set

import genrep.shards
from genrep.shards import DataError, Sample, reader
from genrep.shards.layout import layout_of
from genrep.shards.table import read_table, table_bytes
from genrep.shards.writer import DatasetWriter


def assert_is_sample(sample, recipe, index):
    images, latents, label, meta = expected_sample(recipe, index)
    assert isinstance(sample, Sample)
    assert (sample.index, sample.label, sample.meta) == (index, label, meta)
    np.testing.assert_array_equal(sample.images, np.broadcast_to(images, (*images.shape[:3], 3)), strict=True)
    np.testing.assert_array_equal(sample.latents, latents, strict=True)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"channels": 3, "views": ("gauss", "steer", "independent")},
        {"image_format": "webp", "channels": 3},
        {"kind": "imported", "views": ()},
    ],
)
def test_every_sample_comes_back_as_it_was_written(tmp_path, settings):
    recipe = tiny_recipe(**settings)
    write_set(tmp_path / "set", recipe)
    dataset = genrep.shards.open(tmp_path / "set")
    assert len(dataset) == 10
    for index in (7, 0, 9, 3, 4):  # across shards of four, in no order
        assert_is_sample(dataset[index], recipe, index)


def test_reading_yields_all_samples_in_order(tiny_set, recipe):
    samples = list(genrep.shards.read(str(tiny_set)))
    assert [sample.index for sample in samples] == list(range(10))
    for sample in samples:
        assert_is_sample(sample, recipe, sample.index)


def test_a_dataset_tells_what_a_trainer_needs_to_know(tiny_set, recipe):
    dataset = genrep.shards.open(tiny_set)
    assert dataset.recipe == recipe
    assert dataset.manifest.num_samples == 10
    assert (dataset.num_views, dataset.image_shape, dataset.channels) == (1, (9, 7), 1)
    assert dataset.shard_counts == [4, 4, 2]
    assert dataset.member_names == ["anchor.png", "view1.png", "latents.npy", "cls", "json"]


def test_labels_come_from_the_tables_alone(tiny_set):
    dataset = genrep.shards.open(tiny_set)
    for tar in tiny_set.glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    np.testing.assert_array_equal(dataset.labels, np.array([0, 1] * 5, np.int64), strict=True)


def test_members_are_the_bytes_that_tarfile_reads(tiny_set):
    dataset = genrep.shards.open(tiny_set)
    with tarfile.open(tiny_set / "shard-000001.tar") as archive:
        expected = {entry.name: archive.extractfile(entry).read() for entry in archive}
    found = {
        f"{position:09d}.{member}": bytes(content)
        for position in range(4, 8)
        for member, content in dataset.members(position).items()
    }
    assert list(found.items()) == list(expected.items())
    assert list(dataset.members(5, ["cls", "anchor.png"])) == ["anchor.png", "cls"]


def test_positions_count_from_the_end_too_and_end_where_the_set_ends(tiny_set):
    dataset = genrep.shards.open(tiny_set)
    assert dataset[-1].index == 9
    assert dataset[np.int64(3)].index == 3
    for outside in (10, -11):
        with pytest.raises(IndexError, match="in a set of 10 samples"):
            dataset[outside]
    with pytest.raises(TypeError):
        dataset["3"]


def test_torch_shuffles_it_like_any_dataset(tiny_set):
    from torch.utils import data

    batches = list(data.DataLoader(genrep.shards.open(tiny_set), batch_size=4, shuffle=True, collate_fn=list))
    assert sorted(sample.index for batch in batches for sample in batch) == list(range(10))


def test_a_pickled_dataset_reads_the_same(tiny_set, recipe):
    dataset = genrep.shards.open(tiny_set)
    assert_is_sample(dataset[6], recipe, 6)  # its tar is mapped now, which no pickle can hold
    assert_is_sample(pickle.loads(pickle.dumps(dataset))[6], recipe, 6)


def test_threads_share_a_dataset_however_few_tars_are_mapped(tiny_set, recipe, monkeypatch):
    monkeypatch.setattr(reader, "MAX_MAPPED", 1)
    dataset = genrep.shards.open(tiny_set)
    indices = np.random.default_rng(0).integers(10, size=400).tolist()
    with ThreadPoolExecutor(8) as pool:
        for index, sample in zip(indices, pool.map(dataset.__getitem__, indices), strict=True):
            assert_is_sample(sample, recipe, index)


def test_descriptors_do_not_grow_with_the_number_of_shards(tmp_path, monkeypatch):
    recipe = tiny_recipe(num_samples=24, shard_size=1)
    write_set(tmp_path / "set", recipe)
    monkeypatch.setattr(reader, "MAX_MAPPED", 3)
    dataset = genrep.shards.open(tmp_path / "set")
    before = len(os.listdir("/proc/self/fd"))
    held = dataset.members(0)
    for index in range(24):
        assert_is_sample(dataset[index], recipe, index)
    assert len(os.listdir("/proc/self/fd")) <= before + 3 + 1  # and the one that is held
    with tarfile.open(tmp_path / "set" / "shard-000000.tar") as archive:
        assert bytes(held["json"]) == archive.extractfile("000000000.json").read()


# what is refused at once


def refusal(folder):
    with pytest.raises(DataError) as caught:
        genrep.shards.open(folder)
    with pytest.raises(DataError, match=re.escape(str(caught.value))):
        genrep.shards.read(folder)  # before the first sample is asked for
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_and_a_folder_without_a_set_are_told_apart(tmp_path):
    assert refusal(tmp_path / "none").startswith(f"{tmp_path / 'none'} is no folder")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'recipe.json'} is missing")


@pytest.mark.parametrize(("kind", "command"), [("generated", "genrep-generate"), ("imported", "genrep-shards import")])
def test_an_unfinished_set_tells_how_far_it_is_and_what_continues_it(tmp_path, kind, command):
    recipe = tiny_recipe(kind=kind, views=())
    writer = DatasetWriter(tmp_path / "set", recipe)
    spec = layout_of(recipe).shards[1]
    writer.write_shard(spec, batches_of(recipe, spec), ENVIRONMENT)
    message = refusal(tmp_path / "set")
    assert "is not finished: 1 of 3 shards are there" in message
    assert f"the {command} command that began it, run again, continues it" in message


def test_a_truncated_a_longer_and_a_missing_shard_are_named(tiny_set):
    tar = tiny_set / "shard-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    expected = f"{tar} is truncated, {len(whole) - 512:,} bytes where the manifest says {len(whole):,}"
    assert refusal(tiny_set).startswith(expected)
    tar.write_bytes(whole + b"\0")
    assert refusal(tiny_set).startswith(f"{tar} is too long")
    tar.unlink()
    assert refusal(tiny_set).startswith(f"{tar} is missing")


# what is found when it is reached


def test_a_tar_cut_short_after_opening_is_named_when_it_is_reached(tiny_set, recipe):
    dataset = genrep.shards.open(tiny_set)
    os.truncate(tiny_set / "shard-000001.tar", 512)
    assert_is_sample(dataset[0], recipe, 0)
    with pytest.raises(DataError, match=r"shard-000001\.tar is truncated"):
        dataset[4]


def test_a_missing_table_is_named(tiny_set):
    shutil.rmtree(tiny_set / ".tables")
    with pytest.raises(DataError, match=r"shard-000000\.parquet is missing"):
        genrep.shards.open(tiny_set)[0]
    with pytest.raises(DataError, match=r"shard-000000\.parquet is missing"):
        genrep.shards.open(tiny_set).labels  # noqa: B018


def rewritten(tiny_set, old, new):
    """The second shard with some bytes replaced by as many others."""
    tar = tiny_set / "shard-000001.tar"
    content = tar.read_bytes()
    assert len(old) == len(new)
    assert content.count(old) == 1
    tar.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("member", "old", "new"),
    [
        ("view1.png", b"000000005.view1.png", b"000000006.view1.png"),
        ("anchor.png", b"000000005.anchor.png\0", b"000000005.anchor.pngx"),
    ],
)
def test_a_member_under_another_name_than_the_table_says_is_refused(tiny_set, recipe, member, old, new):
    rewritten(tiny_set, old, new)
    dataset = genrep.shards.open(tiny_set)
    assert_is_sample(dataset[4], recipe, 4)
    with pytest.raises(DataError, match=f"000000005.{member} is not where the table of the shard says; genrep-shards"):
        dataset[5]


@pytest.mark.parametrize(("part", "value"), [("offsets", 0), ("offsets", 2**40), ("sizes", -1), ("sizes", 2**62)])
def test_a_table_that_points_outside_of_its_tar_is_refused(tiny_set, part, value):
    path = tiny_set / ".tables" / "shard-000001.parquet"
    members = ["anchor.png", "view1.png", "latents.npy", "cls", "json"]
    table = read_table(path, members=members, num_samples=4)
    places = {member: array.copy() for member, array in getattr(table, part).items()}
    places["cls"][2] = value
    path.write_bytes(table_bytes(replace(table, **{part: places})))
    with pytest.raises(DataError, match=r"shard-000001\.parquet places members outside of its tar"):
        genrep.shards.open(tiny_set)[4]


def test_a_size_that_differs_from_the_header_is_refused(tiny_set):
    path = tiny_set / ".tables" / "shard-000001.parquet"
    table = read_table(path, members=["anchor.png", "view1.png", "latents.npy", "cls", "json"], num_samples=4)
    sizes = {member: array.copy() for member, array in table.sizes.items()}
    sizes["json"][0] -= 1
    path.write_bytes(table_bytes(replace(table, sizes=sizes)))
    with pytest.raises(DataError, match=r"000000004\.json is not where the table"):
        genrep.shards.open(tiny_set)[4]


@pytest.mark.parametrize("member", ["anchor.png", "view1.png", "latents.npy", "cls", "json"])
def test_a_damaged_member_is_named_with_its_shard(tiny_set, recipe, member):
    damaged = bytes(genrep.shards.open(tiny_set).members(5)[member])
    start = (tiny_set / "shard-000001.tar").read_bytes().index(f"000000005.{member}\0".encode()) + 512
    with (tiny_set / "shard-000001.tar").open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * len(damaged))
    dataset = genrep.shards.open(tiny_set)
    with pytest.raises(DataError, match=rf"{re.escape(str(tiny_set))}/shard-000001\.tar: member 000000005\.{member} "):
        dataset[5]
    assert_is_sample(dataset[6], recipe, 6)


def test_metadata_nested_without_end_is_refused_and_not_a_crash(tmp_path):
    recipe = tiny_recipe(num_samples=1, shard_size=1)
    spec = layout_of(recipe).shards[0]
    [batch] = batches_of(recipe, spec)
    writer = DatasetWriter(tmp_path, recipe)
    writer.write_shard(spec, [replace(batch, meta=[{"index": "[" * 100_000}])], ENVIRONMENT)
    writer.finish()
    tar = tmp_path / "shard-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b'{"index":"[', b"[[[[[[[[[[["))  # now brackets that open and never close
    with pytest.raises(DataError, match=r"000000000\.json cannot be read"):
        genrep.shards.open(tmp_path)[0]


def test_nothing_heavy_is_loaded_to_read(tiny_set):
    code = (
        "import sys, genrep.shards\n"
        f"assert len(list(genrep.shards.read({str(tiny_set)!r}))) == 10\n"
        "assert not {'torch', 'webdataset', 'numba', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny_set)


def test_a_damaged_image_of_a_part_of_a_set_is_named_by_its_index(tiny_set):
    place = bytes(genrep.shards.open(tiny_set).members(5)["anchor.png"])
    tar = tiny_set / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(place, place[:50] + bytes(len(place) - 50)))
    part = genrep.shards.open(tar)
    with pytest.raises(DataError, match=r"member 000000005\.anchor\.png is a damaged PNG"):
        part.images_into([1], np.zeros((1, 1), np.int64), np.empty((1, 1, 9, 7, 1), np.uint8))
