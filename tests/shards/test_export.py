"""Exports, read by literal versions of the readers that they are for."""

import io
import json
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from click.testing import CliRunner
from PIL import Image
from tiny_sets import expected_latents, expected_sample, tiny_recipe, write_set

import genrep.shards
from genrep.shards.command import main


def run(*words):
    return CliRunner().invoke(main, ["export", *map(str, words)], catch_exceptions=False)


def error_of(*words):
    result = run(*words)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


def files(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def mds_samples(folder):
    """As streaming's MDSReader reads: sizes of the variable columns, then the columns."""
    index = json.loads((folder / "index.json").read_text())
    assert index["version"] == 2
    for shard in index["shards"]:
        assert (shard["format"], shard["version"], shard["compression"], shard["zip_data"]) == ("mds", 2, None, None)
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        (count,) = struct.unpack_from("<I", data)
        assert count == shard["samples"]
        for number in range(count):
            begin, end = struct.unpack_from("<2I", data, 4 * (1 + number))
            sizes, at = [], begin
            for size in shard["column_sizes"]:
                if not size:
                    (size,) = struct.unpack_from("<I", data, at)
                    at += 4
                sizes.append(size)
            sample = {}
            for name, encoding, size in zip(shard["column_names"], shard["column_encodings"], sizes, strict=True):
                content = data[at : at + size]
                at += size
                if encoding in ("png", "jpeg", "bytes"):
                    sample[name] = np.asarray(Image.open(io.BytesIO(content)))
                elif encoding == "int":
                    (sample[name],) = struct.unpack("<q", content)
                elif encoding == "json":
                    sample[name] = json.loads(content)
                else:
                    kind, dtype, shape = encoding.split(":")
                    assert (kind, dtype) == ("ndarray", "float32")
                    sample[name] = np.frombuffer(content, "<f4").reshape([int(side) for side in shape.split(",")])
            assert at == end
            yield sample


def test_mds_holds_every_image_latent_label_and_meta(tiny_set, tmp_path):
    out = tmp_path / "mds"
    assert run("mds", tiny_set, "--out", out).output == f"{tiny_set} as 3 MDS files in {out}\n"
    found = list(mds_samples(out))
    assert len(found) == 10
    for index, sample in enumerate(found):
        images, latents, label, meta = expected_sample(tiny_recipe(), index)
        assert list(sample) == ["anchor", "index", "label", "latents", "meta", "view1"]
        assert np.array_equal([sample["anchor"], sample["view1"]], images[..., 0])
        assert np.array_equal(sample["latents"], latents)
        assert (sample["index"], sample["label"], sample["meta"]) == (index, label, meta)


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_mds_takes_colours_and_every_image_format(tmp_path, image_format):
    write_set(tmp_path / "set", tiny_recipe(image_format=image_format, channels=3, views=()))
    assert run("mds", tmp_path / "set", "--out", tmp_path / "mds").exit_code == 0
    for sample, stored in zip(mds_samples(tmp_path / "mds"), genrep.shards.read(tmp_path / "set"), strict=True):
        assert np.array_equal(sample["anchor"], stored.images[0])


def test_mds_of_imported_images_has_no_column_of_latents(tmp_path):
    write_set(tmp_path / "set", tiny_recipe(kind="imported", views=()))
    run("mds", tmp_path / "set", "--out", tmp_path / "mds")
    assert list(next(mds_samples(tmp_path / "mds"))) == ["anchor", "index", "label", "meta"]


@pytest.mark.parametrize(("image", "view"), [("anchor", 0), ("view1", 1)])
def test_wds_holds_one_image_and_its_label_under_plain_names(tiny_set, tmp_path, image, view):
    out = tmp_path / "wds"
    run("wds", tiny_set, "--image", image, "--out", out)
    split = json.loads((out / "_info.json").read_text())["splits"]["train"]
    assert (split["num_samples"], split["shard_lengths"]) == (10, [4, 4, 2])
    urls = [str(out / name) for name in split["filenames"]]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("l8").to_tuple("__key__", "png", "cls"))
    assert [key for key, _, _ in found] == [f"{index:09d}" for index in range(10)]
    for index, (_, pixels, label) in enumerate(found):
        images, _, expected_label, _ = expected_sample(tiny_recipe(), index)
        assert np.array_equal(pixels, images[view, ..., 0])
        assert label == expected_label


def ganset(root, *, num_views):
    """As the authors' GansetDataset finds them: the list of anchors, and views by replacing a part of the name."""
    for line in (root / "ratiodata1.0_imgList.txt").read_text().splitlines():
        anchor = Path(line)
        assert anchor.is_absolute()
        assert re.fullmatch(r"seed\d{4}_sample\d{5}_anchor\.png", anchor.name)
        views = [Path(line.replace("anchor", f"1.0_{k}")) for k in range(1, num_views + 1)]
        with (anchor.parent / "z_dataset.pkl").open("rb") as file:
            latents = pickle.load(file)
        yield (
            anchor,
            [np.asarray(Image.open(path)) for path in (anchor, *views)],
            [latents[path.name] for path in (anchor, *views)],
        )


def test_class_folders_give_the_authors_reader_every_sample(tiny_set, tmp_path):
    out = tmp_path / "folders"
    assert run("folder", tiny_set, "--out", out).output == f"20 images of {tiny_set} in {out}/train\n"
    found = list(ganset(out, num_views=1))
    assert sorted({anchor.parent.name for anchor, _, _ in found}) == ["0000_even", "0001_odd"]
    for anchor, images, latents in found:
        label, number = (int(digits) for digits in re.findall(r"\d+", anchor.name)[:2])
        index = 2 * number + label  # of the tiny set: even and odd take turns
        expected, _, _, _ = expected_sample(tiny_recipe(), index)
        assert np.array_equal(images, np.repeat(expected, 3, axis=-1))
        assert np.array_equal([latent for latent, _ in latents], expected_latents(index))
        assert {number for _, number in latents} == {label}
    assert len(found) == 10
    assert (out / "full_imgList.txt").read_bytes() == (out / "ratiodata1.0_imgList.txt").read_bytes()


def test_a_set_without_classes_becomes_a_folder_a_shard(tmp_path, monkeypatch):
    import tiny_sets

    sample_of = tiny_sets.expected_sample
    monkeypatch.setattr(tiny_sets, "expected_sample", lambda *of: (*sample_of(*of)[:2], -1, sample_of(*of)[3]))
    write_set(tmp_path / "set")
    run("folder", tmp_path / "set", "--out", tmp_path / "folders")
    counts = {path.name: len(list(path.glob("*_anchor.png"))) for path in (tmp_path / "folders/train").iterdir()}
    assert counts == {"shard-000000": 4, "shard-000001": 4, "shard-000002": 2}


@pytest.mark.parametrize("words", [("mds",), ("wds",), ("folder",)])
def test_an_export_goes_on_where_it_stopped_and_refuses_another_set(tiny_set, tmp_path, words):
    out = tmp_path / "out"
    run(*words, tiny_set, "--out", out)
    whole = files(out)
    victims = [path for path in out.rglob("*") if path.suffix in (".mds", ".tar", ".png")][:1]
    contents = victims[0].read_bytes()
    victims[0].unlink()
    assert run(*words, tiny_set, "--out", out, "--quiet").output == ""
    assert victims[0].read_bytes() == contents
    again = files(out)
    assert {name for name in whole if whole[name] == again[name]} >= {
        name for name in whole if name.endswith((".mds", ".tar", ".png")) and out / name != victims[0]
    }
    write_set(tmp_path / "other", tiny_recipe(num_samples=4))
    assert "holds another export" in error_of(*words, tmp_path / "other", "--out", out)
    assert "and no genrep.json" in error_of(*words, tiny_set, "--out", tiny_set)


def test_an_export_says_which_set_it_came_from(tiny_set, tmp_path):
    import hashlib

    run("mds", tiny_set, "--out", tmp_path / "mds")
    source = json.loads((tmp_path / "mds/genrep.json").read_text())
    assert source["manifest_sha256"] == hashlib.sha256((tiny_set / "manifest.json").read_bytes()).hexdigest()
    assert source["licence"] == "MIT"


def test_exports_of_files_a_shard_may_go_to_a_store_and_class_folders_may_not(tiny_set, tmp_path):
    import fsspec

    for kind in ("mds", "wds"):
        assert run(kind, tiny_set, "--out", f"memory://exports/{kind}").exit_code == 0
    names = {path.rpartition("/")[2] for path in fsspec.filesystem("memory").find("/exports")}
    assert {"shard.00002.mds", "index.json", "train-000002.tar", "_info.json", "genrep.json"} <= names
    assert "name a folder" in error_of("folder", tiny_set, "--out", "memory://exports/folder")


def test_wrong_words_are_one_line(tiny_set, tmp_path):
    assert "has no image 'view7': it has anchor, view1" in error_of(
        "wds", tiny_set, "--image", "view7", "--out", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()
    assert "is no folder" in error_of("mds", tmp_path / "none", "--out", tmp_path / "x")
    assert run("mds", tiny_set).exit_code == 2
    for kind in ("mds", "wds", "folder"):
        assert f"\n    genrep-shards export {kind} " in run(kind, "--help").output


def test_an_export_that_is_terminated_leaves_no_half_written_file(tmp_path):
    write_set(tmp_path / "set", tiny_recipe(num_samples=4000, shard_size=500))
    words = [sys.executable, "-m", "genrep.shards.command", "export", "folder", tmp_path / "set", "--out"]
    process = subprocess.Popen([*words, tmp_path / "out"], stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").rglob("*_anchor.png")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("Error: interrupted")
    assert errors.endswith("run the same command to continue\n")
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    assert not (tmp_path / "out" / "full_imgList.txt").exists()
    for path in list((tmp_path / "out").rglob("*.png")):
        Image.open(path).load()


def test_on_a_full_disk_an_export_is_one_line(tmp_path):
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
    code += "from genrep.shards.command import main; main(sys.argv[1:])"
    write_set(tmp_path / "set", tiny_recipe(num_samples=40, shard_size=40))
    words = [sys.executable, "-c", code, "export", "mds", tmp_path / "set", "--out", tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "raise the file-size limit" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["genrep.json"]
