"""A small file that names some samples of a set stands for them."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
from tiny_sets import expected_sample, tiny_recipe, write_set

import genrep.shards
from genrep.shards.errors import DataError
from genrep.shards.subset import parse_ranges, read_subset, subset_bytes
from genrep.shards.verify import verify


def write_subset(tiny_set, path, text):
    path.write_bytes(subset_bytes(tiny_set, parse_ranges(text), path=path))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", [(3, 4)]),
        ("0-9", [(0, 10)]),
        ("5,0-2, 3-4 ,9", [(0, 6), (9, 10)]),
        ("4-6,5-8,1", [(1, 2), (4, 9)]),
        ("0-999999998", [(0, 999_999_999)]),
    ],
)
def test_ranges_are_put_in_order_and_joined_where_they_touch(text, expected):
    assert parse_ranges(text) == tuple(range(first, stop) for first, stop in expected)


@pytest.mark.parametrize("text", ["", "a", "-1", "1-", "3-2", "1;2", "1-2-3", "1.5", "9999999999", "1,,2"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(DataError, match="range"):
        parse_ranges(text)


def test_a_subset_is_read_as_its_samples_in_order(tiny_set, tmp_path, recipe):
    few = genrep.shards.open(write_subset(tiny_set, tmp_path / "few.json", "9,2-5"))
    assert (len(few), few.indices.tolist(), few.shard_counts) == (5, [2, 3, 4, 5, 9], [2, 2, 1])
    for position, index in enumerate([2, 3, 4, 5, 9]):
        images, latents, label, meta = expected_sample(recipe, index)
        sample = few[position]
        assert (sample.index, sample.label, sample.meta) == (index, label, meta)
        np.testing.assert_array_equal(sample.images, np.broadcast_to(images, (*images.shape[:3], 3)))
        np.testing.assert_array_equal(sample.latents, latents)
    assert few[-1].index == 9
    assert few.labels.tolist() == [0, 1, 0, 1, 1]
    assert [sample.index for sample in genrep.shards.read(tmp_path / "few.json")] == [2, 3, 4, 5, 9]
    with pytest.raises(IndexError, match="position 5 in a set of 5 samples"):
        few[5]
    assert pickle.loads(pickle.dumps(few))[4].index == 9


def test_a_subset_and_its_set_move_together(tiny_set, tmp_path):
    (tmp_path / "lists").mkdir()
    few = write_subset(tiny_set, tmp_path / "lists/few.json", "0-3")
    assert json.loads(few.read_text())["parent"] == "../set"
    (tmp_path / "elsewhere").mkdir()
    for name in ("set", "lists"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert len(genrep.shards.open(tmp_path / "elsewhere/lists/few.json")) == 4


def test_a_damaged_sample_of_a_subset_is_named_by_its_key(tiny_set, tmp_path):
    few = write_subset(tiny_set, tmp_path / "few.json", "5")
    tar = tiny_set / "shard-000001.tar"
    content = bytearray(tar.read_bytes())
    start = content.index(b"000000005.anchor.png\0") + 512
    content[start : start + 4] = b"\0\0\0\0"
    tar.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{tar}: member 000000005.anchor.png ")):
        genrep.shards.open(few)[0]


def test_only_the_shards_it_names_are_verified(tiny_set, tmp_path):
    few = write_subset(tiny_set, tmp_path / "few.json", "0,9")
    counts = []
    assert verify(few, deep=True, progress=counts.append) == []
    assert counts == [4, 2]
    for name in ("shard-000001.tar", "shard-000002.tar"):
        tar = tiny_set / name
        content = bytearray(tar.read_bytes())
        content[600] ^= 1
        tar.write_bytes(content)
    assert {fault.shard for fault in verify(few)} == {"shard-000002.tar"}


def test_a_subset_of_another_state_of_its_set_is_refused(tiny_set, tmp_path):
    few = write_subset(tiny_set, tmp_path / "few.json", "0-3")
    shutil.rmtree(tiny_set)
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        genrep.shards.open(few)
    write_set(tiny_set, tiny_recipe(12))
    for act in (genrep.shards.open, read_subset, verify):
        with pytest.raises(DataError, match=r"is a subset of another set than .* is now, of the one whose manifest"):
            act(few)


def edited(path, **change):
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "genrep/9"},
        {"kind": "generated"},
        {"kind": None},
        {"parent": None},
        {"parent": 5},
        {"parent": "/etc"},
        {"parent": "s3://bucket/set"},
        {"parent": "http://127.0.0.1:9/set"},
        {"parent": "a\x00b"},
        {"parent": "nowhere"},
        {"parent": "../" * 50},
        {"parent_sha256": "0" * 64},
        {"parent_sha256": ["a"]},
        {"parent_sha256": None},
        {"ranges": None},
        {"ranges": []},
        {"ranges": [5]},
        {"ranges": [{"first": 0}]},
        {"ranges": [{"first": -1, "count": 2}]},
        {"ranges": [{"first": 0, "count": 0}]},
        {"ranges": [{"first": 0, "count": 11}]},
        {"ranges": [{"first": 0, "count": 10**12}]},
        {"ranges": [{"first": True, "count": 1}]},
        {"ranges": [{"first": 0.5, "count": 1}]},
        {"ranges": {"first": 0, "count": 1}},
    ],
)
def test_a_subset_from_elsewhere_that_cannot_be_is_one_line(tiny_set, tmp_path, change):
    few = write_subset(tiny_set, tmp_path / "few.json", "0-3")
    edited(few, **change)
    for act in (genrep.shards.open, verify):
        with pytest.raises(DataError) as caught:
            act(few)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 10_000, b"\xff", b'{"a":' * 10_000])
def test_a_file_that_is_no_subset_is_one_line(tmp_path, content):
    (tmp_path / "few.json").write_bytes(content)
    with pytest.raises(DataError, match=r"few\.json is no"):
        genrep.shards.open(tmp_path / "few.json")


def test_samples_that_the_set_has_not_are_refused(tiny_set, tmp_path):
    with pytest.raises(DataError, match="has the samples 0 to 9, not 10"):
        write_subset(tiny_set, tmp_path / "few.json", "3-10")
    assert not (tmp_path / "few.json").exists()
