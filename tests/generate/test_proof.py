"""verify --prove: a set against its recipe and its generator."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from forgery import flip, forge, hashes, identities, place_of

from genrep.generate import generate, load_generator, make_recipe
from genrep.generate.proof import Chosen, prove
from genrep.shards.codec import decode, encode
from genrep.shards.errors import DataError
from genrep.shards.manifest import json_bytes

STUB = Chosen(name="stub_generators:conditional", device="cpu")
OPTIONS = {"num_samples": 37, "shard_size": 8, "micro_batch": 4}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A set of the stub, 37 samples in shards of 8, with steered views."""
    from genrep.generate.walks import Walks

    directions = np.array([[1, 0, 0, 0], [0, 0.5, 0, -0.5]], np.float32)
    full, units = {"zoom": 0.2, "shift": 4.0}, {"zoom": "ln", "shift": "px"}
    walks = Walks(("zoom", "shift"), directions, "z", "", full, units)
    generator = load_generator(STUB.name)
    folder = tmp_path_factory.mktemp("sets") / "set"
    generate(make_recipe(generator, views=("gauss", "steer"), walks=walks, **OPTIONS), folder, generator=generator)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "set")
    return tmp_path / "set"


def places(proof):
    return [(fault.shard, fault.key, fault.member) for fault in proof.faults]


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
@pytest.mark.parametrize("name", ["conditional", "unconditional", "wide", "noisy"])
def test_a_set_as_it_was_made_is_proven_to_the_byte(tmp_path, name, image_format):
    generator = load_generator(f"stub_generators:{name}")
    recipe = make_recipe(generator, views=("gauss", "independent"), image_format=image_format, **OPTIONS)
    generate(recipe, tmp_path / "set", generator=generator)
    proof = prove(tmp_path / "set", share=1, chosen=Chosen(name=f"stub_generators:{name}", device="cpu"))
    assert (proof.faults, proof.num_rendered, proof.environments) == ([], 37, [])
    assert "every image has the same bytes" in proof.told


def test_a_set_with_subsampled_colours_is_proven_to_the_byte(tmp_path):
    generator = load_generator("stub_generators:wide")
    recipe = make_recipe(generator, image_format="jpg", subsampling="4:2:0", **OPTIONS)
    generate(recipe, tmp_path / "set", generator=generator)
    proof = prove(tmp_path / "set", share=1, chosen=Chosen(name="stub_generators:wide", device="cpu"))
    assert (proof.faults, proof.num_rendered) == ([], 37)


def test_latents_of_w_are_proven_to_the_bit_and_in_another_environment_up_to_rounding(tmp_path, monkeypatch):
    generator = load_generator("stub_generators:mapped")
    generate(make_recipe(generator, latent_space="w", **OPTIONS), tmp_path / "set", generator=generator)
    chosen = Chosen(name="stub_generators:mapped", device="cpu")
    assert prove(tmp_path / "set", share=1, chosen=chosen).faults == []

    def rounded_otherwise(key, member, content):
        return content[:-4] + bytes([content[-4] ^ 1]) + content[-3:] if member == "latents.npy" else content

    forge(tmp_path / "set", rounded_otherwise)
    assert len(prove(tmp_path / "set", share=0, chosen=chosen).faults) == 37
    elsewhere(monkeypatch)
    assert prove(tmp_path / "set", share=1, chosen=chosen).faults == []


def test_proving_writes_nothing(folder):
    before = identities(folder)
    prove(folder, share=1, chosen=STUB)
    assert identities(folder) == before


def test_the_part_that_is_rendered_follows_from_the_seed_and_has_the_share_asked_for(folder, monkeypatch):
    from genrep.generate.render import Renderer

    seen = []
    real = Renderer.images
    monkeypatch.setattr(Renderer, "images", lambda self, drawn: (seen.append(drawn.indices[0]), real(self, drawn))[1])

    def rendered(share, seed):
        seen.clear()
        proof = prove(folder, share=share, seed=seed, chosen=STUB)
        assert proof.seed == seed
        return sorted(seen), proof.num_rendered

    assert rendered(0.3, 1) == rendered(0.3, 1)
    assert {tuple(rendered(0.3, seed)[0]) for seed in range(8)} > {tuple(rendered(0.3, 1)[0])}
    assert [len(rendered(share, 5)[0]) for share in (0, 0.01, 0.3, 1)] == [0, 1, 3, 10]
    assert rendered(1, 0)[1] == 37


def test_one_changed_weight_is_found_by_the_fingerprint(folder, monkeypatch):
    import stub_generators

    def changed(weights=None):
        stub = stub_generators.Stub()
        with torch.no_grad():
            stub.network.weight[0, 0] += 2**-20
        return stub

    monkeypatch.setattr(stub_generators, "changed", changed, raising=False)
    with pytest.raises(DataError, match="stub_generators:changed does not fit the recipe: its fingerprint is"):
        prove(folder, share=1, chosen=Chosen(name="stub_generators:changed"))


def test_one_changed_weight_is_found_by_the_pixels_if_the_fingerprint_hides_it(folder, monkeypatch):
    import stub_generators

    published = load_generator(STUB.name).fingerprint()

    class Lying(stub_generators.Stub):
        def fingerprint(self):
            return published

    def lying(weights=None):
        stub = Lying()
        with torch.no_grad():
            stub.network.weight[7, 0] += 0.3  # of one pixel of 64
        return stub

    monkeypatch.setattr(stub_generators, "lying", lying, raising=False)
    proof = prove(folder, share=1, chosen=Chosen(name="stub_generators:lying", device="cpu"))
    assert {fault.member for fault in proof.faults} >= {"anchor.png", "view1.png", "view2.png"}
    assert "is not what the generator renders: " in proof.faults[0].message
    assert "of the pixel values differ, by" in proof.faults[0].message


def darker(content):
    return encode(decode(content, channels=1)[None] // 2, format="png")[0]


@pytest.mark.parametrize("member", ["anchor.png", "view2.png"])
def test_an_image_replaced_by_another_valid_one_with_all_hashes_rewritten_is_found(folder, member):
    def change(key, name, content):
        return darker(content) if (key, name) == ("000000013", member) else content

    forge(folder, change)
    proof = prove(folder, share=0, deep=True, chosen=STUB)
    assert proof.faults == []  # nothing but rendering tells
    proof = prove(folder, share=1, chosen=STUB)
    assert places(proof) == [("shard-000001.tar", "000000013", member)]


def test_the_same_pixels_in_other_bytes_are_found_in_the_same_environment(folder):
    import io

    from PIL import Image

    def recompressed(key, name, content):
        if (key, name) != ("000000013", "anchor.png"):
            return content
        file = io.BytesIO()
        Image.open(io.BytesIO(content)).save(file, "PNG")
        return file.getvalue()

    forge(folder, recompressed)
    (fault,) = prove(folder, share=1, chosen=STUB).faults
    assert (fault.key, fault.member) == ("000000013", "anchor.png")
    assert "0.0000% of the pixel values differ" in fault.message


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("cls", b"0", "is b'0' where the recipe gives"),
        ("json", b'{"index":11,"class":"ant","views":[]}', "is not the metadata that the recipe gives"),
        ("latents.npy", None, "differs from what the recipe gives in 1 of 12 numbers, by up to 0.25"),
    ],
)
def test_what_no_image_shows_is_drawn_again_from_the_recipe(folder, member, content, message):
    (sample,) = [key for key in ("000000010", "000000011") if label_of(folder, key) != 0][:1]

    def change(key, name, old):
        if (key, name) != (sample, member):
            return old
        if content is not None:
            return content.replace(b"11", b"%d" % int(sample))
        latents = np.frombuffer(old[-48:], np.float32).copy()
        latents[5] += 0.25
        return old[:-48] + latents.tobytes()

    forge(folder, change)
    proof = prove(folder, share=0, chosen=STUB)
    assert ("shard-000001.tar", sample, member) in places(proof)
    assert message in next(fault.message for fault in proof.faults if fault.member == member)


def label_of(folder, key):
    path, offset, size = place_of(folder, key, "cls")
    return int(path.read_bytes()[offset : offset + size])


def test_an_edited_label_and_an_edited_strength_in_the_table_are_found(folder):
    def edited(table):
        if table.keys[0] != "000000008":
            return table
        labels, columns = table.labels.copy(), {name: values.copy() for name, values in table.columns.items()}
        labels[1] = (labels[1] + 1) % 3
        columns["view2.zoom"][2] += 1
        return dataclasses.replace(table, labels=labels, columns=columns)

    forge(folder, table=edited)
    proof = prove(folder, share=0, chosen=STUB)
    assert places(proof) == [("shard-000001.tar", "000000009", ""), ("shard-000001.tar", "000000010", "")]
    assert "label in the table is" in proof.faults[0].message
    assert "view2.zoom in the table is" in proof.faults[1].message


def test_another_licence_than_the_generators_is_found(folder):
    forge(folder, facts=lambda facts: dataclasses.replace(facts, licence="public domain"))
    faults = prove(folder, share=0, chosen=STUB).faults
    assert len(faults) == 5
    assert "states the licence 'public domain', the generator None" in faults[0].message


@pytest.mark.parametrize("change", [{"seed": 1}, {"std": 0.4}])
def test_a_recipe_that_is_not_that_of_the_samples_is_found(folder, change):
    for name in ("recipe.json", "manifest.json"):
        content = json.loads((folder / name).read_text())
        (content if name == "recipe.json" else content["recipe"]).update(change)
        (folder / name).write_bytes(json_bytes(content))
    faults = prove(folder, share=0, chosen=STUB).faults
    assert {fault.shard for fault in faults} == {f"shard-{number:06d}.tar" for number in range(5)}


def test_damage_that_verify_finds_is_in_the_proof_and_the_other_shards_are_proven(folder):
    path, offset, _ = place_of(folder, "000000013", "anchor.png")
    flip(path, offset + 40)
    proof = prove(folder, share=1, chosen=STUB)
    assert places(proof) == [("shard-000001.tar", "000000013", "anchor.png")]
    assert proof.num_rendered == 37 - 8


def elsewhere(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")


def test_in_another_environment_the_pixels_decide_and_their_difference_is_told(folder, monkeypatch):
    elsewhere(monkeypatch)
    proof = prove(folder, share=1, chosen=STUB)
    assert proof.faults == []
    assert "in another environment (cpu_capability was" in proof.told
    assert "is ANOTHER): 0.0000% of the pixel values differ, by 0 grey levels at most" in proof.told
    assert proof.difference.num_images == 3 * 37


def shifted(key, name, content, *, by, where=("000000013", "anchor.png")):
    if (key, name) != where:
        return content
    pixels = decode(content, channels=1).astype(np.int16)
    pixels[3, 3] += by if pixels[3, 3] < 128 else -by
    return encode(pixels.astype(np.uint8)[None], format="png")[0]


def test_in_another_environment_a_grey_level_may_be_rounded_otherwise_but_no_more(folder, monkeypatch):
    elsewhere(monkeypatch)
    forge(folder, lambda key, name, content: shifted(key, name, content, by=1))
    proof = prove(folder, share=1, chosen=STUB)
    assert proof.faults == []
    assert (proof.difference.num_other_values, proof.difference.largest) == (1, 1)
    assert f"{1 / (3 * 37 * 64):.4%} of the pixel values differ, by 1 grey levels at most" in proof.told
    forge(folder, lambda key, name, content: shifted(key, name, content, by=40))
    proof = prove(folder, share=1, chosen=STUB)
    assert places(proof) == [("shard-000001.tar", "000000013", "anchor.png")]


def test_a_set_that_was_imported_cannot_be_proven(folder, tmp_path):
    recipe = json.loads((folder / "recipe.json").read_text()) | {"kind": "imported"}
    (folder / "recipe.json").write_bytes(json_bytes(recipe))
    with pytest.raises(DataError, match="kind is 'imported'; only a generated set can be generated again"):
        prove(folder, chosen=STUB)


def test_a_subset_proves_the_shards_it_names(folder, tmp_path):
    from genrep.shards.subset import parse_ranges, subset_bytes

    few = tmp_path / "few.json"
    few.write_bytes(subset_bytes(folder, parse_ranges("9,30-31"), path=few))
    proof = prove(few, share=1, chosen=STUB)
    assert (proof.faults, proof.num_rendered) == ([], 16)
    path, offset, _ = place_of(folder, "000000000", "anchor.png")
    flip(path, offset + 40)
    assert prove(few, share=1, chosen=STUB).faults == []  # that shard is no part of it
    path, offset, _ = place_of(folder, "000000010", "anchor.png")
    flip(path, offset + 40)
    assert places(prove(few, share=1, chosen=STUB)) == [("shard-000001.tar", "000000010", "anchor.png")]


def test_a_forgery_of_nothing_is_the_set_itself(folder, original):
    forge(folder)
    names = {"README.md"}
    assert {n: h for n, h in hashes(folder).items() if n not in names} == {
        n: h for n, h in hashes(original).items() if n not in names
    }
