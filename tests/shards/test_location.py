"""Sets in a store behave like sets in a folder: here fsspec's own memory, and a web server of this process."""

import errno
import functools
import hashlib
import http.server
import itertools
import json
import pickle
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tiny_sets import ENVIRONMENT, batches_of, expected_sample, tiny_recipe, write_set

import genrep.shards
from genrep.shards import atomic, cache
from genrep.shards.errors import DataError
from genrep.shards.info import describe
from genrep.shards.location import RemotePath, location
from genrep.shards.verify import verify
from genrep.shards.writer import DatasetWriter

MEMORY = fsspec.filesystem("memory")
_numbers = itertools.count()


class Renaming(MemoryFileSystem):
    """A store where an upload shows from its first byte on, as on a server of files."""

    protocol = "renaming"
    store, pseudo_dirs = {}, [""]


fsspec.register_implementation("renaming", Renaming)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(cache, "PAUSES", (0, 0, 0))


@pytest.fixture
def url():
    return f"memory://{next(_numbers)}/set"


@pytest.fixture
def served(tiny_set):
    """The tiny set behind http on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tiny_set.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/set"
    server.shutdown()
    server.server_close()


def contents(url):
    root = MEMORY._strip_protocol(url)
    return {path.removeprefix(f"{root}/"): MEMORY.cat_file(path) for path in MEMORY.find(root)}


def assert_is_the_tiny_set(samples):
    for index, sample in enumerate(samples):
        images, latents, label, meta = expected_sample(tiny_recipe(), index)
        assert np.array_equal(sample.images, np.repeat(images, 3, axis=-1))
        assert np.array_equal(sample.latents, latents)
        assert (sample.index, sample.label, sample.meta) == (index, label, meta)
    assert index == 9


def test_what_has_a_scheme_is_a_url_and_all_else_a_path():
    assert location("data/set") == Path("data/set")
    assert location(Path("data")) == Path("data")
    assert location("file:///data/my set") == Path("/data/my set")
    assert location("s3://bucket/set/") == RemotePath("s3://bucket/set")
    assert str(location("s3://bucket/set") / "a.tar") == "s3://bucket/set/a.tar"
    assert location("s3://bucket/set").resolve().name == "set"


def test_a_store_receives_the_bytes_that_a_folder_receives(url, tmp_path):
    manifest = write_set(url)
    assert manifest == write_set(tmp_path / "set")
    local = {str(p.relative_to(tmp_path / "set")): p.read_bytes() for p in (tmp_path / "set").rglob("*") if p.is_file()}
    assert contents(url) == local


def test_a_set_in_a_store_is_read_verified_and_described_like_one_in_a_folder(url, tiny_set):
    write_set(url)
    assert_is_the_tiny_set(genrep.shards.read(url))
    assert verify(url, deep=True) == []
    assert describe(url) == describe(tiny_set)
    assert len(pickle.loads(pickle.dumps(genrep.shards.open(url)))) == 10


def test_a_set_behind_http_is_read_and_verified_but_not_written(served):
    assert_is_the_tiny_set(genrep.shards.read(served))
    assert verify(served) == []
    with pytest.raises(DataError, match=r"recipe.json could not be written \(http is read only\)"):
        write_set(f"{served}-new")


def test_an_interrupted_upload_goes_on_at_the_first_missing_shard(url):
    recipe = tiny_recipe()
    writer = DatasetWriter(url, recipe, licence="MIT")
    first, second, _ = writer.missing_shards()
    writer.write_shard(first, batches_of(recipe, first), ENVIRONMENT)

    def broken():
        yield from itertools.islice(batches_of(recipe, second), 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write_shard(second, broken(), ENVIRONMENT)
    assert sorted(contents(url)) == [".tables/shard-000000.parquet", "recipe.json", "shard-000000.tar"]
    with pytest.raises(DataError, match="is not finished: 1 of 3 shards are there"):
        genrep.shards.open(url)
    before = MEMORY.modified(MEMORY._strip_protocol(f"{url}/shard-000000.tar"))
    write_set(url, recipe)
    assert MEMORY.modified(MEMORY._strip_protocol(f"{url}/shard-000000.tar")) == before
    assert_is_the_tiny_set(genrep.shards.read(url))


def test_another_recipe_and_foreign_files_are_refused_there_too(url):
    write_set(url)
    with pytest.raises(DataError, match="seed is 0 there and 1 here"):
        write_set(url, tiny_recipe() | {"seed": 1})
    MEMORY.pipe_file(f"{url}2/notes.txt", b"mine")
    with pytest.raises(DataError, match=r"holds notes.txt and no recipe.json"):
        write_set(f"{url}2")


def test_of_two_that_create_a_recipe_the_second_reads_the_first(url):
    path = location(url) / "recipe.json"
    atomic.create(path, b"first")
    atomic.create(path, b"second")
    assert path.read_bytes() == b"first"
    with pytest.raises(FileExistsError):
        path.put_new(b"third")


def test_where_uploads_are_not_atomic_a_file_gets_its_name_when_it_is_whole(monkeypatch):
    path = location(f"renaming://{next(_numbers)}/set") / "shard-000000.tar"
    upload = Renaming.pipe_file

    def broken(self, name, value, **options):
        upload(self, name, value[:3], **options)
        raise ConnectionResetError(errno.ECONNRESET, "connection reset")

    monkeypatch.setattr(Renaming, "pipe_file", broken)
    with pytest.raises(DataError, match=r"could not be written .connection reset.: check the address"):
        atomic.write(path, b"content")
    assert not path.exists()
    monkeypatch.undo()
    atomic.write(path, b"content")
    assert path.read_bytes() == b"content"
    assert [other.name for other in location(path.url.rpartition("/")[0]).iterdir()] == ["shard-000000.tar"]


def test_damage_in_a_store_is_named_by_verify_and_refused_by_the_reader(url):
    write_set(url)
    list(genrep.shards.read(url))  # a whole copy lies in the cache: verify must not look there
    tar = bytearray(MEMORY.cat_file(f"{url}/shard-000001.tar"))
    tar[tar.index(b"000000005.anchor.png") + 512 + 40] ^= 1
    MEMORY.pipe_file(f"{url}/shard-000001.tar", bytes(tar))
    assert [(fault.shard, fault.key, fault.member) for fault in verify(url)] == [
        ("shard-000001.tar", "000000005", "anchor.png")
    ]
    for file in cache.cache_folder().glob("*.tar"):
        file.unlink()
    dataset = genrep.shards.open(url)
    with pytest.raises(DataError, match=r"shard-000001.tar has another sha256 than the manifest says"):
        dataset[5]
    assert dataset[0].index == 0
    MEMORY.pipe_file(f"{url}/shard-000002.tar", b"short")
    with pytest.raises(DataError, match=r"shard-000002.tar is truncated, 5 bytes where"):
        dataset[9]
    MEMORY.rm_file(f"{url}/shard-000002.tar")
    with pytest.raises(DataError, match=r"shard-000002.tar is missing"):
        dataset[9]
    assert [fault.message for fault in verify(url) if fault.shard == "shard-000002.tar"] == ["is missing"]


def test_the_cache_holds_no_more_bytes_than_it_may_and_keeps_what_was_used_last(url, cache_folder, monkeypatch):
    manifest = write_set(url, tiny_recipe(num_samples=6, shard_size=1))
    size = manifest.shards[0].bytes
    monkeypatch.setenv("GENREP_CACHE_GB", str(2.5 * size / 1e9))
    dataset = genrep.shards.open(url)
    for position in (0, 1, 0, 2, 0, 3, 4, 5):
        assert dataset[position].index == position
        assert sum(file.stat().st_size for file in cache_folder.iterdir()) <= 2.5 * size
        assert len(dataset._archives) <= 2  # what left the cache is not kept alive by a mapping
    assert {file.stem for file in cache_folder.glob("*.tar")} == {shard.sha256 for shard in manifest.shards[4:]}


def test_a_cache_that_cannot_hold_a_shard_says_so(url, monkeypatch):
    write_set(url)
    monkeypatch.setenv("GENREP_CACHE_GB", "0.000001")
    with pytest.raises(DataError, match=r"a shard of .* bytes does not fit in the cache .*: raise GENREP_CACHE_GB"):
        genrep.shards.open(url)[0]
    monkeypatch.setenv("GENREP_CACHE_GB", "much")
    with pytest.raises(DataError, match="GENREP_CACHE_GB is 'much'"):
        genrep.shards.open(url)[0]


def test_a_second_reader_takes_tars_from_the_cache_and_a_changed_set_never_does(url):
    write_set(url)
    list(genrep.shards.read(url))
    for name in list(contents(url)):
        if name.endswith(".tar"):
            MEMORY.rm_file(f"{url}/{name}")
    assert_is_the_tiny_set(genrep.shards.read(url))
    MEMORY.rm(url, recursive=True)
    other = tiny_recipe(views=("uniform",))
    write_set(url, other)
    assert genrep.shards.open(url)[0].meta["views"][0]["kind"] == "uniform"


def test_a_broken_download_is_begun_again(url, monkeypatch):
    write_set(url)
    failures = iter([True, True, False])
    read = cache._copy

    def flaky(*arguments):
        if next(failures, False):
            raise OSError(errno.EIO, "connection reset")
        return read(*arguments)

    monkeypatch.setattr(cache, "_copy", flaky)
    assert genrep.shards.open(url)[0].index == 0
    monkeypatch.setattr(cache, "_copy", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "connection reset")))
    with pytest.raises(DataError, match=r"cannot be read \(connection reset\): check rights and connection"):
        genrep.shards.open(url)[5]
    assert not list(cache.cache_folder().glob(".*.tmp-*"))


def test_prefetching_fetches_what_is_asked_for_and_nothing_of_a_folder(url, tiny_set, cache_folder):
    manifest = write_set(url)
    dataset = genrep.shards.open(url)
    dataset.prefetch([0, 1, 9])
    for thread in threading.enumerate():
        if thread.name == "genrep-fetch":
            thread.join()
    wanted = {manifest.shards[0].sha256, manifest.shards[2].sha256}
    assert {file.stem for file in cache_folder.glob("*.tar")} == wanted
    genrep.shards.open(tiny_set).prefetch([0])
    assert {file.stem for file in cache_folder.glob("*.tar")} == wanted


@pytest.mark.parametrize(
    ("shards", "indices"),
    [
        ("shard-{000001..000002}.tar", range(4, 10)),
        ("shard-000000.tar", range(4)),
        ("shard-{000000..000002}.tar", range(10)),
    ],
)
def test_a_brace_pattern_names_some_shards_of_a_set_in_a_folder_or_a_store(url, tiny_set, shards, indices):
    write_set(url)
    for place in (f"{url}/{shards}", tiny_set / shards):
        dataset = pickle.loads(pickle.dumps(genrep.shards.open(place)))
        assert [sample.index for sample in dataset] == list(indices)
        assert dataset.labels.tolist() == [index % 2 for index in indices]
    assert len(list(cache.cache_folder().glob("*.tar"))) == -(-len(indices) // 4)


@pytest.mark.parametrize("shards", ["shard-{000002..000003}.tar", "shard-{000002..000001}.tar", "shard-000003.tar"])
def test_shards_that_a_set_has_not_are_refused(tiny_set, shards):
    with pytest.raises(DataError, match=r"has the shards shard-000000\.tar to shard-000002\.tar: name some of these"):
        genrep.shards.open(tiny_set / shards)


def test_cached_tars_are_named_by_the_hash_that_they_have(url, cache_folder):
    write_set(url)
    list(genrep.shards.read(url))
    for file in cache_folder.glob("*.tar"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stem


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nowhere://set", "no address that can be used"),
        ("memory://none/set", "recipe.json is missing: name a folder"),
        ("abfs://container/set", "needs the package adlfs"),
    ],
)
def test_an_address_that_leads_nowhere_is_a_fault_of_one_line(place, reason):
    with pytest.raises(DataError, match=reason) as caught:
        genrep.shards.open(place)
    assert "\n" not in str(caught.value)


def test_a_manifest_in_a_store_that_is_no_json_is_refused(url):
    write_set(url)
    MEMORY.pipe_file(f"{url}/manifest.json", b"[" * 100_000)
    with pytest.raises(DataError, match="is no JSON"):
        genrep.shards.open(url)
    MEMORY.pipe_file(f"{url}/manifest.json", json.dumps([]).encode())
    with pytest.raises(DataError, match="is no JSON object"):
        genrep.shards.open(url)
