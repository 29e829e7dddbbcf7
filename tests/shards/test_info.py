"""What is told of a set, to programs and to people."""

import hashlib
import json

import numpy as np
import pytest
from tiny_sets import ENVIRONMENT, batches_of, tiny_recipe, write_set

from genrep.shards import DataError
from genrep.shards.batch import Batch
from genrep.shards.info import as_text, describe
from genrep.shards.layout import layout_of
from genrep.shards.writer import DatasetWriter


def test_a_description_holds_recipe_totals_shards_classes_and_bytes(tiny_set, recipe):
    told = describe(tiny_set)
    tars = sorted(tiny_set.glob("*.tar"))
    num_bytes = [tar.stat().st_size for tar in tars]
    assert told["recipe"] == recipe
    assert told["licence"] == "MIT"
    assert told["totals"] == {"samples": 10, "images": 20, "shards": 3, "bytes": sum(num_bytes)}
    assert told["shards"] == [
        {
            "name": tar.name,
            "samples": count,
            "bytes": tar.stat().st_size,
            "sha256": hashlib.sha256(tar.read_bytes()).hexdigest(),
        }
        for tar, count in zip(tars, (4, 4, 2), strict=True)
    ]
    assert told["classes"] == [{"label": 0, "name": "even", "samples": 5}, {"label": 1, "name": "odd", "samples": 5}]
    assert told["environments"] == [{"environment": ENVIRONMENT, "shards": 3}]
    recipe_bytes = (tiny_set / "recipe.json").stat().st_size
    assert told["bytes"] == {"generator": None, "recipe": recipe_bytes, "set": sum(num_bytes)}
    assert json.loads(json.dumps(told)) == told


def test_environments_are_counted_apart(tmp_path, recipe):
    writer = DatasetWriter(tmp_path, recipe)
    for spec in layout_of(recipe).shards:
        writer.write_shard(spec, batches_of(recipe, spec), {"torch": "2" if spec.first else "1"})
    writer.finish()
    found = describe(tmp_path)["environments"]
    assert found == [{"environment": {"torch": "1"}, "shards": 1}, {"environment": {"torch": "2"}, "shards": 2}]


def text_of(folder):
    return as_text(describe(folder))


def line_of(text, word):
    [line] = [line for line in text.splitlines() if word in line]
    return line


def test_generator_recipe_and_set_are_weighed_side_by_side(tmp_path, recipe):
    recipe["generator"]["bytes"] = 1000
    write_set(tmp_path / "set", recipe)
    text = text_of(tmp_path / "set")
    recipe_bytes = (tmp_path / "set" / "recipe.json").stat().st_size
    set_bytes = sum(tar.stat().st_size for tar in (tmp_path / "set").glob("*.tar"))
    lines = text.splitlines()
    place = lines.index(line_of(text, "1,000  generator"))
    assert lines[place + 1].strip() == f"{recipe_bytes:,}  recipe"
    assert lines[place + 2].strip() == f"{set_bytes:,}  set"
    assert f"again from {(1000 + recipe_bytes) / set_bytes:.2%} of its bytes" in lines[place + 3]


def test_an_unknown_size_is_said_to_be_unknown(tiny_set):
    assert line_of(text_of(tiny_set), "not recorded").endswith("not recorded  generator")


def test_real_images_have_no_generator_and_no_size_of_it(tmp_path):
    write_set(tmp_path / "set", tiny_recipe(kind="imported", views=()))
    text = text_of(tmp_path / "set")
    assert "generator" not in text
    assert line_of(text, "samples").split() == ["samples", "10", "imported,", "10", "images"]
    assert line_of(text, "even").split() == ["classes", "5", "0", "even"]


def write_labelled(folder, labels):
    recipe = tiny_recipe(num_samples=len(labels), shard_size=len(labels))
    [spec] = layout_of(recipe).shards
    [batch] = batches_of(recipe, spec, batch_size=len(labels))
    writer = DatasetWriter(folder, recipe)
    batch = Batch(0, batch.images, batch.latents, np.array(labels, np.int64), batch.meta, batch.columns)
    writer.write_shard(spec, [batch], ENVIRONMENT)
    writer.finish()


def test_of_many_classes_the_fewest_and_the_most_samples_are_told(tmp_path):
    write_labelled(tmp_path, [*range(20), 7, 7, *(label for label in range(20) if label != 13)])
    text = text_of(tmp_path)
    assert line_of(text, "in all").split()[1:] == ["20", "in", "all"]
    assert line_of(text, "(fewest)").split() == ["1", "13", "(fewest)"]
    assert line_of(text, "(most)").split() == ["4", "7", "(most)"]


def test_without_labels_there_are_no_classes(tmp_path):
    write_labelled(tmp_path, [-1] * 6)
    assert describe(tmp_path)["classes"] == []
    assert line_of(text_of(tmp_path), "classes  ").split() == ["classes", "none"]


@pytest.mark.parametrize(
    "generator", [None, "name", ["list"], {"class_names": "even", "bytes": "many"}, {"bytes": -1.5}]
)
def test_a_recipe_from_elsewhere_may_hold_anything_where_it_is_only_shown(tiny_set, generator):
    recipe = json.loads((tiny_set / "recipe.json").read_text())
    manifest = json.loads((tiny_set / "manifest.json").read_text())
    recipe |= {"generator": generator, "note": "\x1b[2J\n" * 3}
    (tiny_set / "recipe.json").write_text(json.dumps(recipe))
    (tiny_set / "manifest.json").write_text(json.dumps(manifest | {"recipe": recipe}))
    told = describe(tiny_set)
    assert told["bytes"]["generator"] is None
    text = as_text(told)
    assert "\x1b" not in text
    assert line_of(text, "note").split() == ["note", "?[2J??[2J??[2J?"]


def test_an_unfinished_set_is_refused(tmp_path, recipe):
    DatasetWriter(tmp_path, recipe)
    with pytest.raises(DataError, match="0 of 3 shards are there"):
        describe(tmp_path)
