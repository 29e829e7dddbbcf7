"""Whatever bytes a reader meets, it gives what is there or a DataError; GENREP_FUZZ_EXAMPLES sets how many it meets."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_sets import tiny_recipe

from genrep.shards import tar
from genrep.shards.errors import DataError
from genrep.shards.layout import layout_of
from genrep.shards.manifest import build_manifest, manifest_bytes, read_manifest
from genrep.shards.npy import latents_of, npy_header
from genrep.shards.table import ShardFacts

fuzzed = settings(
    max_examples=int(os.environ.get("GENREP_FUZZ_EXAMPLES", "200")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NAMES = ["000000000.anchor.png", "000000000.cls", "000000001.anchor.png", "000000001.cls"]
ARCHIVE = bytes(tar.pack(NAMES, [b"image", b"1", b"x" * 600, b"2"]))
LATENTS = npy_header((2, 4)) + np.arange(8, dtype=np.float32).tobytes()
RECIPE = tiny_recipe(num_samples=3, shard_size=2)
FACTS = {spec: ShardFacts("ab" * 32, 10_240, {"cpu": "any"}) for spec in layout_of(RECIPE).shards}
MANIFEST = manifest_bytes(build_manifest(RECIPE, FACTS))


def damaged(whole):
    """The bytes with some replaced, cut out, put in or cut off; or any bytes at all."""
    edit = st.tuples(st.integers(0, len(whole)), st.integers(0, 16), st.binary(max_size=16))

    def apply(edits):
        content = whole
        for place, length, new in edits:
            content = content[:place] + new + content[place + length :]
        return content

    return st.one_of(st.lists(edit, min_size=1, max_size=6).map(apply), st.binary(max_size=2048))


@fuzzed
@given(damaged(ARCHIVE))
def test_an_archive_is_walked_or_refused(content):
    try:
        members = list(tar.walk(memoryview(content)))
    except DataError:
        return
    for member in members:
        assert 0 <= member.offset <= member.offset + member.size <= len(content)
    names = [member.name for member in members]
    again = tar.pack(names, [content[m.offset : m.offset + m.size] for m in members]) if names else None
    assert again is None or bytes(again) == content  # nothing but what we write is taken


@fuzzed
@given(damaged(LATENTS))
def test_latents_are_read_or_refused(content):
    try:
        latents = latents_of(content, num_images=2)
    except DataError:
        return
    assert latents.shape[0] == 2
    assert latents.dtype == np.float32
    assert latents.nbytes <= len(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    return folder


def json_values():
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
    return st.recursive(
        leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=12), v, max_size=4)
    )


@st.composite
def edited_manifests(draw):
    """A manifest with some values, anywhere in it, replaced or removed."""
    content = json.loads(MANIFEST)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            if not place:
                break
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(json_values())
            break
    return json.dumps(content).encode()


@fuzzed
@given(content=st.one_of(damaged(MANIFEST), edited_manifests()))
def test_a_manifest_is_read_or_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    try:
        manifest = read_manifest(folder)
    except DataError:
        return
    assert [shard.name for shard in manifest.shards] == ["shard-000000.tar", "shard-000001.tar"]
    assert manifest.num_samples == 3


@fuzzed
@given(content=st.one_of(damaged(json.dumps(RECIPE).encode()), json_values().map(lambda v: json.dumps(v).encode())))
def test_a_layout_is_found_or_refused(content):
    try:
        recipe = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(recipe, dict):
        return
    try:
        layout = layout_of(recipe)
        shards = layout.shards
    except DataError:
        return
    assert sum(spec.count for spec in shards) == layout.num_samples
