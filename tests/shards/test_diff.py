"""Two sets side by side: in which respect they differ, and by how much."""

import dataclasses

import numpy as np
import pytest
from tiny_sets import ENVIRONMENT, batches_of, tiny_recipe, write_set

from genrep.shards.diff import diff
from genrep.shards.errors import DataError
from genrep.shards.layout import layout_of
from genrep.shards.subset import parse_ranges, subset_bytes
from genrep.shards.writer import DatasetWriter


def write_changed(folder, change, recipe=None):
    """A set of which every batch was changed on the way: ``change`` takes one and gives one."""
    recipe = recipe or tiny_recipe()
    writer = DatasetWriter(folder, recipe)
    for spec in layout_of(recipe).shards:
        writer.write_shard(spec, map(change, batches_of(recipe, spec)), ENVIRONMENT)
    writer.finish()
    return folder


def lines_of(found):
    return {respect: told for respect, told in found.lines().items() if told != "equal" and respect != "samples"}


def test_a_set_and_its_copy_are_equal(tiny_set, tmp_path):
    write_set(tmp_path / "copy")
    found = diff(tiny_set, tmp_path / "copy")
    assert (found.verdict, lines_of(found)) == ("equal", {})
    assert (found.num_samples, found.num_images) == ((10, 10, 10), 20)


def test_another_layout_of_the_same_samples_is_told_apart_from_another_set(tiny_set, tmp_path):
    write_set(tmp_path / "other", tiny_recipe(shard_size=3))
    found = diff(tiny_set, tmp_path / "other")
    assert found.verdict == "equal in samples, different in layout"
    assert lines_of(found) == {"layout": "shard_size is 4 and 3"}


def test_the_common_part_of_a_small_and_a_large_set_is_compared(tiny_set, tmp_path):
    write_set(tmp_path / "large", tiny_recipe(12))
    found = diff(tiny_set, tmp_path / "large")
    assert found.verdict == "equal in the 10 samples that both have, different in layout"
    assert found.lines()["samples"] == "10 and 12, 10 of them in both"


def test_subsets_are_matched_by_index(tiny_set, tmp_path):
    for name, text in (("low", "0-6"), ("high", "4-9")):
        path = tmp_path / f"{name}.json"
        path.write_bytes(subset_bytes(tiny_set, parse_ranges(text), path=path))
    found = diff(tmp_path / "low.json", tmp_path / "high.json")
    assert found.num_samples == (7, 6, 3)
    assert found.verdict == "equal in the 3 samples that both have, different in layout"


def test_recipes_are_told_by_field_with_both_values(tiny_set, tmp_path):
    recipe = tiny_recipe()
    recipe["generator"]["fingerprint"] = "ab"
    write_set(tmp_path / "other", {**recipe, "seed": 7})
    found = diff(tiny_set, tmp_path / "other")
    assert lines_of(found) == {"recipe": 'generator.fingerprint is null and "ab"; seed is 0 and 7'}
    assert found.verdict == "equal in samples, different in recipe"


def test_labels_are_counted(tiny_set, tmp_path):
    def other(batch):
        return dataclasses.replace(batch, labels=np.where(np.arange(len(batch)) == 0, 1 - batch.labels, batch.labels))

    found = diff(tiny_set, write_changed(tmp_path / "other", other))
    assert found.verdict == "different in labels"
    assert lines_of(found) == {"labels": "5 of 10 samples differ"}  # of five batches


def test_latents_are_counted_and_measured(tiny_set, tmp_path):
    def other(batch):
        latents = batch.latents.copy()
        latents[0, 1, 2] += 0.25
        return dataclasses.replace(batch, latents=latents)

    found = diff(tiny_set, write_changed(tmp_path / "other", other))
    assert found.verdict == "different in latents"
    assert lines_of(found) == {"latents": "5 of 10 samples differ, by up to 0.25"}


def test_latents_of_another_dimension_differ_without_measure(tiny_set, tmp_path):
    def other(batch):
        return dataclasses.replace(batch, latents=np.ascontiguousarray(batch.latents[:, :, :3]))

    found = diff(tiny_set, write_changed(tmp_path / "other", other))
    assert lines_of(found) == {"latents": "10 of 10 samples differ, by up to inf"}


def test_pixels_are_counted_and_measured(tiny_set, tmp_path):
    def other(batch):
        images = batch.images.copy()
        images[0, 0, 4, 4] ^= 4  # one of 9 x 7 values, by four levels, in five of the ten samples
        return dataclasses.replace(batch, images=images)

    found = diff(tiny_set, write_changed(tmp_path / "other", other))
    assert found.respects == ["pixels", "encoding"]
    assert lines_of(found) == {
        "pixels": f"{5 / (20 * 63):.4%} of the pixel values differ, by 4 grey levels at most, in 5 of 20 images",
        "encoding": "5 of 20 images have other bytes (png)",
    }


def test_the_same_pixels_in_another_format_differ_in_encoding_alone(tiny_set, tmp_path):
    write_set(tmp_path / "other", tiny_recipe(image_format="webp"))
    found = diff(tiny_set, tmp_path / "other")
    assert found.respects == ["encoding"]
    assert lines_of(found)["encoding"] == "20 of 20 images have other bytes (png and webp)"


def test_metadata_are_counted(tiny_set, tmp_path):
    def other(batch):
        return dataclasses.replace(batch, meta=[{**meta, "class": "odd"} for meta in batch.meta])

    found = diff(tiny_set, write_changed(tmp_path / "other", other))
    assert lines_of(found) == {"metadata": "5 of 10 samples differ"}


def test_images_of_another_size_are_not_compared(tiny_set, tmp_path):
    write_set(tmp_path / "other", tiny_recipe(height=10))
    found = diff(tiny_set, tmp_path / "other")
    assert found.lines()["pixels"] == "not compared: 9 x 7 x 1 and 10 x 7 x 1"
    assert found.respects == ["pixels", "encoding"]


def test_views_that_only_one_has_are_named_and_the_others_compared(tiny_set, tmp_path):
    write_set(tmp_path / "other", tiny_recipe(views=("gauss", "steer")))
    found = diff(tiny_set, tmp_path / "other")
    assert found.lines()["views"] == "only one has view2"
    assert found.num_encoded == 0
    assert found.num_images == 20


def test_progress_counts_the_samples(tiny_set):
    counts = []
    diff(tiny_set, tiny_set, progress=lambda done, total: counts.append((done, total)))
    assert counts == [(number, 10) for number in range(1, 11)]


def test_a_damaged_image_is_named(tiny_set, tmp_path):
    write_set(tmp_path / "other")
    tar = tmp_path / "other/shard-000001.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"000000005.anchor.png\0") + 512 + 45] ^= 0xFF
    tar.write_bytes(content)
    with pytest.raises(DataError, match="sample 5, anchor of"):
        diff(tiny_set, tmp_path / "other")


def test_latents_that_are_no_numbers_differ(tiny_set, tmp_path):
    def other(batch):
        latents = batch.latents.copy()
        latents[0, 0, 0] = np.nan
        return dataclasses.replace(batch, latents=latents)

    assert diff(tiny_set, write_changed(tmp_path / "other", other)).largest_latent == np.inf
