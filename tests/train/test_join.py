"""Training on a set joined with added views, and on a subset."""

import hashlib
import json

import numpy as np
import pytest
from click.testing import CliRunner
from wave_sets import image_of, metrics_of

import genrep.shards
from genrep.shards.batch import Batch
from genrep.shards.errors import DataError
from genrep.shards.subset import parse_ranges, subset_bytes
from genrep.shards.writer import DatasetWriter
from genrep.train import command
from genrep.train.config import resolve
from genrep.train.data import Loader

SHAPE = (28, 28, 1)


def write_views(folder, numbers, *, parent=None, num_samples=40):
    """Images of these numbers of the waves: 0 is the anchor."""
    recipe = {
        "format": "genrep/1",
        "kind": "generated",
        "num_samples": num_samples,
        "shard_size": 16,
        "generator": {"name": "waves"},
        "views": [f"wave{number}" for number in numbers if number],
        "image": {"height": 28, "width": 28, "channels": 1, "format": "png", "quality": None, "resize": None},
    }
    if parent is not None:
        digest = hashlib.sha256((parent / "manifest.json").read_bytes()).hexdigest()
        recipe["parent"] = {"manifest_sha256": digest, "views": ["wave1"]}
    writer = DatasetWriter(folder, recipe)
    for spec in writer.missing_shards():
        samples = range(spec.first, spec.first + spec.count)
        batch = Batch(
            first=spec.first,
            images=np.stack([[image_of(i, number, SHAPE) for number in numbers] for i in samples]),
            latents=np.zeros((len(samples), len(numbers), 1), np.float32),
            labels=np.array([i % 4 for i in samples], np.int64),
            meta=[{"index": i, "views": [number for number in numbers if number]} for i in samples],
        )
        writer.write_shard(spec, [batch], {})
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A set with views 1, its further views 2 and 3, and one set with all three."""
    folder = tmp_path_factory.mktemp("sets")
    parent = write_views(folder / "set", [0, 1])
    return parent, write_views(folder / "more", [2, 3], parent=parent), write_views(folder / "one", [0, 1, 2, 3])


@pytest.mark.parametrize("views", ["both", "latent", "pixel"])
def test_a_joined_set_gives_the_batches_of_one_set_generated_with_all_views(sets, views):
    parent, more, one = sets

    def batches(shards):
        return list(Loader(shards, resolve(shards, batch_size=8, steps=12, views=views)).batches(0))

    joined, whole = batches(genrep.shards.open(parent, join=more)), batches(genrep.shards.open(one))
    assert len(joined) == 12
    for ours, theirs in zip(joined, whole, strict=True):
        np.testing.assert_array_equal(ours.samples, theirs.samples)
        assert ours.images.equal(theirs.images)
        assert ours.labels.equal(theirs.labels)


def test_the_command_trains_on_a_joined_set_and_records_both(sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parent, more, one = sets

    def trained(*words):
        words = ["--device", "cpu", "--threads", "1", "--batch-size", "8", "--steps", "3", *map(str, words)]
        return CliRunner().invoke(command.main, words)

    assert trained("--shards", parent, "--join", more, "--out", "joined").exit_code == 0
    assert trained("--shards", one, "--out", "whole").exit_code == 0
    losses = [[line["loss"] for line in metrics_of(tmp_path / run)] for run in ("joined", "whole")]
    assert losses[0] == losses[1]
    record = json.loads((tmp_path / "joined/config.json").read_text())
    assert (record["shards"], record["join"]) == (str(parent), str(more))
    result = trained("--shards", parent, "--out", "joined")
    assert "joined holds another run, with recipe_sha256" in result.output  # other views are another run
    result = trained("--shards", one, "--join", more, "--out", "wrong")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "holds views of another set than" in result.output
    result = trained("--shards", more, "--out", "wrong")
    assert "holds added views alone: give it as --join, and as --shards its parent" in result.output
    assert not (tmp_path / "wrong").exists()


def test_a_subset_gives_its_samples_alone_and_counts_as_another_run(sets, tmp_path):
    parent, _, _ = sets
    few = tmp_path / "few.json"
    few.write_bytes(subset_bytes(parent, parse_ranges("3-9,20-28,39"), path=few))
    shards, whole = genrep.shards.open(few), genrep.shards.open(parent)
    assert shards.shard_counts == [7, 9, 1]
    config = resolve(shards, batch_size=4, steps=8, views="latent")
    chosen = np.array([*range(3, 10), *range(20, 29), 39])
    seen = set()
    for batch in Loader(shards, config).batches(0):
        assert batch.labels.tolist() == (chosen[batch.samples] % 4).tolist()
        pixels = ((batch.images[:4, 0].numpy() * 0.5 + 0.5) * 255).round().astype(np.uint8)
        for sample, image in zip(batch.samples, pixels, strict=True):
            np.testing.assert_array_equal(image, image_of(int(chosen[sample]), 0, SHAPE)[..., 0])
            seen.add(int(chosen[sample]))
    assert seen <= set(chosen.tolist())
    assert len(seen) >= 16
    assert config.recipe_sha256 != resolve(whole, batch_size=4, steps=8, views="latent").recipe_sha256


def test_the_command_trains_on_a_subset(sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = tmp_path / "few.json"
    few.write_bytes(subset_bytes(sets[0], parse_ranges("0-15"), path=few))
    words = ["--shards", str(few), "--batch-size", "8", "--steps", "1", "--device", "cpu", "--threads", "1"]
    result = CliRunner().invoke(command.main, words)
    assert result.exit_code == 0, result.output
    assert result.stdout == "runs/few-supcon-seed0: trained for 1 steps\n"


def test_views_that_do_not_fit_their_parent_are_refused(sets, tmp_path):
    parent, _, _ = sets
    shorter = write_views(tmp_path / "shorter", [2], parent=parent, num_samples=39)
    with pytest.raises(DataError, match=r"names .* as its parent and does not fit it"):
        genrep.shards.open(parent, join=shorter)
