import io
import json
import os
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_sets import tiny_recipe, write_set

from genrep.shards.codec import encode
from genrep.shards.errors import DataError
from genrep.shards.verify import MAX_FAULTS, verify


def places(folder, shard=1):
    with tarfile.open(folder / f"shard-{shard:06d}.tar") as file:
        return {member.name: (member.offset_data, member.size) for member in file}


def flip(folder, place, shard=1):
    path = folder / f"shard-{shard:06d}.tar"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def found(folder, **how):
    return [(fault.shard, fault.key, fault.member) for fault in verify(folder, **how)]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "recipe",
    [
        tiny_recipe(),
        tiny_recipe(5, 2, views=("gauss", "steer"), channels=3, image_format="jpg"),
        tiny_recipe(3, views=(), image_format="webp"),
        tiny_recipe(3, views=(), kind="imported", channels=3),
    ],
    ids=["png", "jpg", "webp", "imported"],
)
def test_a_set_as_it_was_written_has_no_fault(tmp_path, recipe, deep):
    write_set(tmp_path / "set", recipe)
    assert verify(tmp_path / "set", deep=deep) == []


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("member", ["anchor.png", "view1.png", "latents.npy", "cls", "json"])
def test_a_flipped_bit_is_found_with_shard_key_and_member(tiny_set, member, deep):
    offset, size = places(tiny_set)[f"000000005.{member}"]
    flip(tiny_set, offset + size // 2)
    assert found(tiny_set, deep=deep) == [("shard-000001.tar", "000000005", member)]
    flip(tiny_set, offset + size // 2)
    flip(tiny_set, offset - 512 + 20)  # in the header: the name
    assert found(tiny_set, deep=deep) == [("shard-000001.tar", "000000005", member)]


@pytest.mark.parametrize("place", [-1, "padding"])
def test_a_flipped_bit_between_the_members_is_found(tiny_set, place):
    flip(tiny_set, sum(places(tiny_set)["000000004.cls"]) + 5 if place == "padding" else place)
    (fault,) = verify(tiny_set)
    assert (fault.shard, fault.key) == ("shard-000001.tar", "")
    assert "outside of its members" in fault.message


def test_two_swapped_samples_are_found_with_their_members(tiny_set):
    path = tiny_set / "shard-000001.tar"
    where = places(tiny_set)
    content = bytearray(path.read_bytes())
    for member in ("anchor.png", "view1.png"):  # of equal size here, as the headers' sizes then stay right
        (a, size), (b, other) = (where[f"00000000{index}.{member}"] for index in (4, 6))
        if size == other:
            content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    (a, size), (b, _) = (where[f"00000000{index}.latents.npy"] for index in (4, 6))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    path.write_bytes(content)
    assert {("shard-000001.tar", key, "latents.npy") for key in ("000000004", "000000006")} <= set(found(tiny_set))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-512]), "bytes, its table says"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(512)), "bytes, its table says"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    ],
    ids=["missing", "short", "long", "empty", "pipe", "folder"],
)
def test_a_missing_or_truncated_shard_is_named(tiny_set, damage, message):
    damage(tiny_set / "shard-000001.tar")
    (fault,) = verify(tiny_set)
    assert (fault.shard, fault.key, fault.member) == ("shard-000001.tar", "", "")
    assert message in fault.message
    assert "\n" not in str(fault)


def test_a_shard_in_the_place_of_another_is_found(tiny_set):
    shutil.copy(tiny_set / "shard-000000.tar", tiny_set / "shard-000001.tar")
    assert {shard for shard, _, _ in found(tiny_set)} == {"shard-000001.tar"}


def test_a_missing_table_is_named_and_its_tar_still_looked_through(tiny_set):
    (tiny_set / ".tables/shard-000001.parquet").unlink()
    (fault,) = verify(tiny_set)
    assert fault.shard == "shard-000001.tar"
    assert "shard-000001.parquet is missing" in fault.message
    flip(tiny_set, 20)
    assert "at byte 0" in verify(tiny_set)[1].message


def test_a_shard_too_many_is_named(tiny_set):
    shutil.copy(tiny_set / "shard-000000.tar", tiny_set / "shard-000003.tar")
    assert found(tiny_set) == [("shard-000003.tar", "", "")]


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=2) + "\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["shards"][1].update(sha256="0" * 64),
        lambda m: m["shards"][1].update(environment={"torch": "another"}),
        lambda m: m.update(licence="public domain"),
        lambda m: m["recipe"].update(seed=1),
        lambda m: m["shards"].reverse(),
    ],
)
def test_an_edited_manifest_is_found(tiny_set, change):
    edit_json(tiny_set / "manifest.json", change)
    assert found(tiny_set) == [("manifest.json", "", "")]


def test_a_manifest_and_a_table_that_differ_are_named_with_the_field(tiny_set):
    edit_json(tiny_set / "manifest.json", lambda m: m["shards"][1].update(sha256="0" * 64))
    (fault,) = verify(tiny_set)
    assert fault.message == "differs from the table of shard-000001.tar in sha256"


def test_an_unfinished_set_is_told_from_a_damaged_one(tiny_set):
    (tiny_set / "manifest.json").unlink()
    (fault,) = verify(tiny_set)
    assert fault.shard == "manifest.json"
    assert "not finished" in fault.message


def test_an_edited_index_is_found(tiny_set):
    edit_json(tiny_set / "shards.json", lambda index: index["shardlist"].pop())
    assert found(tiny_set) == [("shards.json", "", "")]


def edit_table(folder, change, shard=1):
    path = folder / f".tables/shard-{shard:06d}.parquet"
    table = pq.read_table(path)
    changed = change(table)
    options = {name: "none" if name.startswith("sha256.") else "zstd" for name in changed.schema.names}
    pq.write_table(changed, path, compression=options, use_dictionary=False)


def with_column(name, values):
    return lambda table: table.set_column(table.schema.names.index(name), table.schema.field(name), pa.array(values))


def test_an_edited_label_in_the_table_is_found_by_the_deep_way(tiny_set):
    edit_table(tiny_set, with_column("label", [0, 1, 1, 1]))
    assert found(tiny_set, deep=True) == [("shard-000001.tar", "000000006", "cls")]


@pytest.mark.parametrize(
    "change",
    [
        with_column("key", ["000000004", "000000005", "000000007", "000000006"]),
        with_column("size.cls", [1, 1, 1, -1]),
        with_column("size.cls", [1, 1, 1, 2**60]),
        with_column("size.json", [1000, 1000, 1000, 1000]),
        with_column("offset.cls", [512, 512, 512, 512]),
        with_column("offset.anchor.png", [0, -512, 2**62, 512]),
    ],
)
def test_a_table_that_places_members_elsewhere_is_found(tiny_set, change):
    edit_table(tiny_set, change)
    (fault,) = verify(tiny_set)
    assert (fault.shard, fault.key) == ("shard-000001.tar", "")


def test_a_size_in_the_table_that_is_not_in_the_header_is_found(tiny_set):
    edit_table(tiny_set, with_column("size.cls", [1, 1, 2, 1]))
    assert found(tiny_set) == [("shard-000001.tar", "000000006", "cls")]


def shard_of(folder, change):
    """Write a set whose contents were changed before they were hashed, so that every hash is right."""
    import genrep.shards.writer as module

    real = module._encode

    def changed(batch, layout):
        encoded = real(batch, layout)
        contents = [change(number, content) for number, content in enumerate(encoded.contents)]
        digests = [np.frombuffer(module.sha256(content).digest(), np.uint8) for content in contents]
        return module._Encoded(contents, np.stack(digests), encoded.labels, encoded.columns)

    module._encode = changed
    try:
        write_set(folder, tiny_recipe(2, 2))
    finally:
        module._encode = real


ANCHOR, VIEW, LATENTS, LABEL, META = range(5, 10)  # of sample 1


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("place", "content", "member"),
    [
        (ANCHOR, b"no image", "anchor.png"),
        (ANCHOR, b"", "anchor.png"),
        (VIEW, encode(np.zeros((1, 9, 8, 1), np.uint8), format="png")[0], "view1.png"),
        (VIEW, encode(np.zeros((1, 9, 7, 3), np.uint8), format="png")[0], "view1.png"),
        (LATENTS, saved(np.zeros((3, 4), np.float32)), "latents.npy"),
        (LATENTS, saved(np.zeros((2, 4))), "latents.npy"),
        (LABEL, b"7", "cls"),
        (LABEL, b" 1", "cls"),
        (META, b"[" * 100_000, "json"),
        (META, b'{"index": 2}', "json"),
        (META, b"\xff", "json"),
    ],
)
def test_what_cannot_be_read_is_found_by_the_deep_way_even_if_all_hashes_are_right(tmp_path, place, content, member):
    shard_of(tmp_path / "set", lambda number, real: content if number == place else real)
    assert found(tmp_path / "set") == []
    assert found(tmp_path / "set", deep=True) == [("shard-000000.tar", "000000001", member)]


def test_a_negative_size_in_the_place_of_none_is_found(tmp_path):
    shard_of(tmp_path / "set", lambda number, real: b"" if number == LABEL else real)
    edit_table(tmp_path / "set", with_column("size.cls", [1, -1]), shard=0)
    assert found(tmp_path / "set") == [("shard-000000.tar", "", "")]


def test_a_shard_of_nothing_but_faults_is_told_briefly(tmp_path):
    shard_of(tmp_path / "set", lambda number, real: real)
    recipe = tiny_recipe(40, 40)
    write_set(tmp_path / "large", recipe)
    path = tmp_path / "large" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    for offset, _ in places(tmp_path / "large", shard=0).values():
        content[offset] ^= 1
    path.write_bytes(content)
    faults = verify(tmp_path / "large")
    assert len(faults) == MAX_FAULTS + 1
    assert "more faults" in faults[-1].message


def test_progress_counts_every_sample(tiny_set):
    counts = []
    verify(tiny_set, progress=counts.append)
    assert counts == [4, 4, 2]


def test_a_folder_that_is_no_set_is_refused(tmp_path, tiny_set):
    with pytest.raises(DataError, match="is no folder"):
        verify(tmp_path / "nowhere")
    (tiny_set / "recipe.json").unlink()
    with pytest.raises(DataError, match=r"recipe\.json is missing"):
        verify(tiny_set)


def test_verifying_writes_nothing(tiny_set):
    before = {path: path.stat().st_mtime_ns for path in tiny_set.rglob("*")}
    verify(tiny_set, deep=True)
    assert {path: path.stat().st_mtime_ns for path in tiny_set.rglob("*")} == before
