"""A set as an FFCV file: what it holds, which file belongs to which set, and what is refused."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_sets import expected_sample, tiny_recipe, write_set

import genrep.shards
from genrep.shards import DataError
from genrep.shards.beton import Beton, BetonWriter, Field
from genrep.shards.command import main
from genrep.shards.ffcv import FfcvSet, beside, export_ffcv, sidecar


def run(*words):
    return CliRunner().invoke(main, ["export", "ffcv", *map(str, words)], catch_exceptions=False)


def error_of(*words, status=1):
    result = run(*words)
    assert result.exit_code == status
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


KINDS = {
    "grey": (tiny_recipe(), "raw"),
    "colour": (tiny_recipe(channels=3, views=("gauss", "steer")), "raw"),
    "jpeg": (tiny_recipe(channels=3, image_format="jpg"), "jpg"),
    "decoded jpeg": (tiny_recipe(channels=3, image_format="jpg"), "raw"),
    "imported": (tiny_recipe(kind="imported", views=(), channels=3), "raw"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_latents_are_those_of_the_set_to_the_bit(tmp_path, kind):
    recipe, images = KINDS[kind]
    write_set(tmp_path / "set", recipe)
    shards = genrep.shards.open(tmp_path / "set")
    export_ffcv(shards, tmp_path / "set.beton", images=images)
    file = FfcvSet(tmp_path / "set.beton", shards)
    for positions in (range(10), [7, 2, 7]):
        numbers = np.random.default_rng(0).integers(1 + shards.num_views, size=(4, len(positions)))
        out = np.empty((*numbers.shape, *shards.image_shape, shards.channels), np.uint8)
        file.images_into(positions, numbers, out)
        expected = np.stack([shards[i].images[own] for i, own in zip(positions, numbers.T, strict=True)], axis=1)
        np.testing.assert_array_equal(np.broadcast_to(out, expected.shape), expected)
    if shards[0].latents.size:
        for index in range(10):
            np.testing.assert_array_equal(file.latents(index), shards[index].latents)


def test_the_file_holds_the_fields_in_order_and_its_neighbour_says_of_which_set(tmp_path, tiny_set):
    result = run(tiny_set, "--out", tmp_path / "x.beton")
    size = (tmp_path / "x.beton").stat().st_size
    assert result.output == f"10 samples of {tiny_set} in {tmp_path / 'x.beton'}, {size:,} bytes\n"
    fields = ["anchor", "view1", "latents", "label", "index"]
    assert json.loads((tmp_path / "x.beton.json").read_text()) == {
        "format": "genrep-ffcv/1",
        "manifest_sha256": hashlib.sha256((tiny_set / "manifest.json").read_bytes()).hexdigest(),
        "recipe_sha256": hashlib.sha256(json.dumps(tiny_recipe(), sort_keys=True).encode()).hexdigest(),
        "images": "raw",
        "samples": 10,
        "bytes": size,
        "fields": fields,
    }
    beton = Beton(tmp_path / "x.beton")
    assert list(beton.fields) == fields
    assert beton.integers("label").tolist() == [expected_sample(tiny_recipe(), index)[2] for index in range(10)]
    assert beton.integers("index").tolist() == list(range(10))


def test_without_out_the_file_lies_beside_the_set_and_quiet_says_nothing(tiny_set):
    assert run(tiny_set, "--quiet").output == ""
    assert beside(tiny_set) == tiny_set.parent / "set.beton"
    FfcvSet(beside(tiny_set), genrep.shards.open(tiny_set))


def test_two_exports_of_a_set_are_equal_bytes(tmp_path, tiny_set):
    for name in ("a", "b"):
        export_ffcv(genrep.shards.open(tiny_set), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_samples_that_do_not_fit_into_a_page_begin_the_next(tmp_path):
    recipe = tiny_recipe(num_samples=5, height=1000, width=1200, channels=3)  # 3.6 MB an image, 16 MiB a page
    write_set(tmp_path / "set", recipe)
    shards = genrep.shards.open(tmp_path / "set")
    export_ffcv(shards, tmp_path / "x.beton")
    out = np.empty((2, 5, 1000, 1200, 3), np.uint8)
    FfcvSet(tmp_path / "x.beton", shards).images_into(range(5), np.repeat([[0], [1]], 5, axis=1), out)
    for index in range(5):
        np.testing.assert_array_equal(out[:, index], shards[index].images)
    assert (tmp_path / "x.beton").stat().st_size > 4 * 2**24  # the head and pages of two, two and one


# what is refused


@pytest.mark.parametrize(("recipe", "what"), [(tiny_recipe(), "one-channel"), (tiny_recipe(channels=3), "png")])
def test_jpegs_are_copied_and_never_made(tmp_path, recipe, what):
    write_set(tmp_path / "set", recipe)
    message = error_of(tmp_path / "set", "--images", "jpg")
    assert (
        message == f"{tmp_path / 'set'} holds {what} images, and --images jpg copies JPEGs in colour: use --images raw"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_damaged_sample_is_named_and_leaves_nothing(tmp_path, tiny_set):
    place = bytes(genrep.shards.open(tiny_set).members(3)["anchor.png"])
    tar = tiny_set / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(place, place[:50] + bytes(len(place) - 50)))
    assert "member 000000003.anchor.png is a damaged PNG" in error_of(tiny_set)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_file_of_another_set_is_refused(tmp_path, tiny_set):
    write_set(tmp_path / "other", tiny_recipe(num_samples=11))
    other = genrep.shards.open(tmp_path / "other")
    export_ffcv(other, tmp_path / "x.beton")
    with pytest.raises(DataError, match=r"x\.beton was made from another set, of manifest_sha256 [0-9a-f]{12} where"):
        FfcvSet(tmp_path / "x.beton", genrep.shards.open(tiny_set))


def test_of_a_subset_its_samples_are_written_and_the_file_of_another_subset_is_refused(tmp_path, tiny_set):
    few, others = (genrep.shards.open(tiny_set / f"shard-00000{number}.tar") for number in (0, 1))
    export_ffcv(others, tmp_path / "x.beton")
    file, out = FfcvSet(tmp_path / "x.beton", others), np.empty((1, 4, 9, 7, 1), np.uint8)
    file.images_into(range(4), np.zeros((1, 4), np.int64), out)
    for position, index in enumerate(range(4, 8)):
        np.testing.assert_array_equal(out[0, position], expected_sample(tiny_recipe(), index)[0][0])
    assert Beton(tmp_path / "x.beton").integers("index").tolist() == [4, 5, 6, 7]
    with pytest.raises(DataError, match=r"x\.beton was made from another set, of recipe_sha256"):
        FfcvSet(tmp_path / "x.beton", few)


def test_a_missing_or_truncated_file_is_refused_with_the_command_that_makes_it(tmp_path, tiny_set):
    shards, path = genrep.shards.open(tiny_set), tmp_path / "x.beton"
    with pytest.raises(DataError, match=rf"cannot be read .*: make it with genrep-shards export ffcv {tiny_set} --out"):
        FfcvSet(path, shards)
    export_ffcv(shards, path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match="is not whole"):
        FfcvSet(path, shards)
    sidecar(path).write_text("[")
    with pytest.raises(DataError, match=r"x\.beton\.json is no JSON of genrep-shards export ffcv"):
        FfcvSet(path, shards)
    sidecar(path).unlink()
    with pytest.raises(DataError, match=r"x\.beton\.json cannot be read"):
        FfcvSet(path, shards)


def test_a_damaged_head_is_refused_or_harmless(tmp_path, tiny_set):
    shards, path = genrep.shards.open(tiny_set), tmp_path / "x.beton"
    export_ffcv(shards, path)
    both, out = np.array([[0], [1]]), np.empty((2, 1, 9, 7, 1), np.uint8)
    head = path.open("rb").read(24 + 17 + 300)
    with path.open("r+b", buffering=0) as file:
        # the header, then of the first field kind, name, shape and the length of its type
        for position in (*range(25), 30, 24 + 17, 24 + 17 + 256, 24 + 17 + 264):
            for value in (0, 1, 0x7F, 0xFF):
                os.pwrite(file.fileno(), bytes([value]), position)
                with suppress(DataError):
                    FfcvSet(path, shards).images_into([9], both, out)
                os.pwrite(file.fileno(), head[position : position + 1], position)


def test_a_place_outside_of_the_file_is_refused(tmp_path):
    path = tmp_path / "x.beton"
    with path.open("wb") as file:
        writer = BetonWriter(file, [Field("a", "array", (4,))], num_samples=1)
        writer.add([b"1234"])
        writer.finish()
    assert [content.tobytes() for content in Beton(path).data("a", np.array([0]))] == [b"1234"]
    content = bytearray(path.read_bytes())
    start = 24 + 1041
    for place in (start, len(content) - 24 + 8):  # of the sample and in the table
        content[place : place + 8] = (2**62).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"places of a are not in its table or not in the file"):
        Beton(path)


def test_an_interrupted_export_leaves_no_file(tmp_path):
    write_set(tmp_path / "set", tiny_recipe(num_samples=20_000, shard_size=20_000), batch_size=1000)
    words = ["export", "ffcv", str(tmp_path / "set"), "--out", str(tmp_path / "out" / "x.beton")]
    process = subprocess.Popen(
        [sys.executable, "-m", "genrep.shards.command", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("out/.x.beton.tmp*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.communicate() == (
        "",
        "Error: interrupted, nothing was written; run the same command to start again\n",
    )
    assert process.returncode == 1
    assert list((tmp_path / "out").iterdir()) == []
