"""Sets mended, and sets that grow."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from forgery import flip, forge, hashes, identities, place_of
from test_proof import OPTIONS, STUB, darker, elsewhere

import genrep.shards
from genrep.generate import Recipe, generate, load_generator, make_recipe
from genrep.generate.proof import Chosen, prove
from genrep.generate.rebuild import add_views, extend, repair
from genrep.shards.diff import diff
from genrep.shards.errors import DataError
from genrep.shards.manifest import json_bytes, read_recipe
from genrep.shards.verify import verify


@pytest.fixture(scope="module")
def generator():
    return load_generator(STUB.name)


@pytest.fixture(scope="module")
def original(generator, tmp_path_factory):
    """A set of the stub: 20 samples in shards of 8, 8 and 4, which is a micro-batch."""
    folder = tmp_path_factory.mktemp("sets") / "set"
    generate(make_recipe(generator, **OPTIONS | {"num_samples": 20}), folder, generator=generator)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "set")
    return tmp_path / "set"


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_bytes(json_bytes(content))


def flip_member(folder, key, member, place=0):
    path, offset, _ = place_of(folder, key, member)
    flip(path, offset + place)


def swap(folder, key, other):
    """Exchange the members of two samples that have the same sizes, which all but images have."""
    path = place_of(folder, key, "cls")[0]
    content = bytearray(path.read_bytes())
    for member in ("latents.npy", "cls", "json"):
        (_, a, size), (_, b, other_size) = place_of(folder, key, member), place_of(folder, other, member)
        size = min(size, other_size)
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    path.write_bytes(content)


def edit_label(folder):
    def edited(table):
        labels = table.labels.copy()
        labels[1] = (labels[1] + 1) % 3
        return dataclasses.replace(table, labels=labels)

    forge(folder, table=lambda table: edited(table) if table.keys[0] == "000000008" else table)


def edit_label_everywhere(folder):
    def other(key, member, content):
        return b"%d" % ((int(content) + 1) % 3) if (key, member) == ("000000009", "cls") else content

    forge(folder, other, with_manifest=False)


DAMAGE = {
    "a bit of an image": (lambda f: flip_member(f, "000000009", "anchor.png", 45), "000000009", "anchor.png"),
    "a bit of a latent": (lambda f: flip_member(f, "000000009", "latents.npy", 130), "000000009", "latents.npy"),
    "a bit of a label": (lambda f: flip_member(f, "000000009", "cls"), "000000009", "cls"),
    "a bit of a header": (lambda f: flip_member(f, "000000009", "json", -512 + 110), "000000009", "json"),
    "two samples swapped": (lambda f: swap(f, "000000009", "000000011"), "000000009", "latents.npy"),
    "a shard cut short": (lambda f: (f / "shard-000001.tar").write_bytes(b"x" * 5120), "", ""),
    "a shard that is missing": (lambda f: (f / "shard-000001.tar").unlink(), "", ""),
    "another shard in its place": (
        lambda f: shutil.copy(f / "shard-000000.tar", f / "shard-000001.tar"),
        "000000008",
        "anchor.png",
    ),
    "a table that is missing": (lambda f: (f / ".tables/shard-000001.parquet").unlink(), "", ""),
    "a table cut short": (lambda f: (f / ".tables/shard-000001.parquet").write_bytes(b"PAR1"), "", ""),
    "table and shard missing": (
        lambda f: [(f / name).unlink() for name in (".tables/shard-000001.parquet", "shard-000001.tar")],
        "",
        "",
    ),
    "an edited label in the table": (edit_label, "000000009", "cls"),
    "an edited label in tar and table": (edit_label_everywhere, "000000009", "cls"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_mended_to_the_original_bytes_and_nothing_else_is_touched(folder, original, name):
    was = hashes(original)
    damage, key, member = DAMAGE[name]
    damage(folder)
    before = identities(folder)
    faults = prove(folder, share=0, deep=True, chosen=STUB).faults
    named = [fault for fault in faults if fault.shard == "shard-000001.tar"]
    assert (named[0].key, named[0].member) == (key, member)
    assert {fault.shard for fault in faults} <= {"shard-000001.tar", "manifest.json"}
    done = repair(folder, chosen=STUB)
    assert (done.rebuilt, done.changed, done.faults) == (["shard-000001.tar"], [], [])
    assert hashes(folder) == was
    others = {file for file in before if "shard-000000" in file or "shard-000002" in file}
    assert len(others) == 4
    after = identities(folder)
    assert {file: after[file] for file in others} == {file: before[file] for file in others}
    again = identities(folder)
    assert repair(folder, chosen=STUB).rebuilt == []
    assert identities(folder) == again


def test_several_shards_are_mended_at_once_and_a_link_in_place_of_one_is_replaced(folder, original, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (folder / "shard-000000.tar").unlink()
    (folder / "shard-000000.tar").symlink_to(victim)
    (folder / "shard-000002.tar").unlink()
    assert repair(folder, chosen=STUB).rebuilt == ["shard-000000.tar", "shard-000002.tar"]
    assert hashes(folder) == hashes(original)
    assert victim.read_bytes() == b"precious"
    assert not (folder / "shard-000000.tar").is_symlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["shards"][1].update(sha256="0" * 64),
        lambda m: m["shards"][1].update(environment={"torch": "another"}),
        lambda m: m.update(licence="public domain"),
        lambda m: m["recipe"].update(seed=1),
        lambda m: m["shards"].reverse(),
        lambda m: m["totals"].update(bytes=1),
        lambda m: m.pop("shards"),
    ],
)
def test_an_edited_manifest_is_written_anew_and_no_shard_is(folder, original, change):
    before, was = identities(folder), hashes(original)
    edit_json(folder / "manifest.json", change)
    assert [fault.shard for fault in verify(folder)] == ["manifest.json"]
    done = repair(folder, chosen=STUB)
    assert (done.rebuilt, done.changed, done.faults) == ([], [], [])
    assert hashes(folder) == was
    shards = {file for file in before if "shard-" in file}
    assert {file: stamp for file, stamp in identities(folder).items() if file in shards} == {
        file: before[file] for file in shards
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 10_000])
def test_a_manifest_that_is_none_is_written_anew_even_beside_a_broken_shard(folder, original, content):
    (folder / "manifest.json").write_bytes(content)
    flip_member(folder, "000000009", "anchor.png", 45)
    assert repair(folder, chosen=STUB).rebuilt == ["shard-000001.tar"]
    assert hashes(folder) == hashes(original)


@pytest.mark.parametrize("name", ["shards.json", "README.md"])
def test_what_else_describes_the_set_is_put_right(folder, original, name):
    (folder / name).unlink()
    if name == "README.md":
        (folder / "manifest.json").write_text("{}")
    assert repair(folder, chosen=STUB).rebuilt == []
    assert hashes(folder) == hashes(original)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: edit_json(path, lambda recipe: recipe.update(seed=1)),
        lambda path: edit_json(path, lambda recipe: recipe.update(std=0.25)),
        lambda path: edit_json(path, lambda recipe: recipe["generator"].update(fingerprint="0" * 64)),
    ],
)
def test_a_damaged_recipe_is_taken_from_the_manifest_if_the_shards_follow_that(folder, original, damage):
    damage(folder / "recipe.json")
    assert repair(folder, chosen=STUB).rebuilt == []
    assert hashes(folder) == hashes(original)


def test_two_recipes_between_which_the_shards_do_not_decide_are_refused(folder):
    edit_json(folder / "recipe.json", lambda recipe: recipe["render"].update(micro_batch=8))
    before = hashes(folder)
    with pytest.raises(DataError, match=r"name two recipes, which differ in render\.micro_batch"):
        repair(folder, chosen=STUB)
    assert hashes(folder) == before


def test_an_unfinished_set_is_continued_by_its_command_and_not_by_repair(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="is not finished: 3 of 3 shards are there"):
        repair(folder, chosen=STUB)


def test_a_shard_too_many_is_named_and_left(folder):
    shutil.copy(folder / "shard-000000.tar", folder / "shard-000007.tar")
    done = repair(folder, chosen=STUB)
    assert [fault.shard for fault in done.faults] == ["shard-000007.tar"]
    assert (folder / "shard-000007.tar").exists()


def test_in_another_environment_nothing_is_written_unless_told_and_then_the_changed_hashes_are_listed(
    folder, original, monkeypatch
):
    forge(folder, facts=lambda facts: dataclasses.replace(facts, environment={"torch": "0.1"}))  # made long ago
    before = hashes(folder)
    path, offset, _ = place_of(folder, "000000009", "anchor.png")
    flip(path, offset + 45)
    damaged = hashes(folder)
    with pytest.raises(DataError, match=r"shard-000001\.tar was made in another environment \(torch was 0\.1, is "):
        repair(folder, chosen=STUB)
    assert hashes(folder) == damaged
    done = repair(folder, chosen=STUB, change_hashes=True)
    assert (done.rebuilt, done.changed, done.faults) == (["shard-000001.tar"], [], [])  # here the same after all
    assert hashes(folder)["shard-000001.tar"] == before["shard-000001.tar"]
    assert hashes(folder)["shard-000002.tar"] == before["shard-000002.tar"]


def test_an_image_replaced_with_all_hashes_rewritten_is_mended_only_if_hashes_may_change(folder, original):
    forge(folder, lambda key, name, old: darker(old) if (key, name) == ("000000009", "view1.png") else old)
    forged = hashes(folder)
    assert repair(folder, chosen=STUB).rebuilt == []  # nothing but rendering tells
    with pytest.raises(DataError, match="stays as it is; --change-hashes writes it all the same"):
        repair(folder, share=1, chosen=STUB)
    assert hashes(folder) == forged
    done = repair(folder, share=1, chosen=STUB, change_hashes=True)
    (change,) = done.changed
    assert change == ("shard-000001.tar", forged["shard-000001.tar"], hashes(original)["shard-000001.tar"])
    assert hashes(folder) == hashes(original)


def test_a_shard_replaced_together_with_its_table_is_told_from_an_edited_manifest_by_rendering(folder, original):
    forge(
        folder,
        lambda key, name, old: darker(old) if (key, name) == ("000000009", "view1.png") else old,
        with_manifest=False,
    )
    done = repair(folder, chosen=STUB)
    assert (done.rebuilt, done.changed) == (["shard-000001.tar"], [])
    assert hashes(folder) == hashes(original)


def test_a_shard_of_which_nothing_is_known_any_more_is_rendered_only_if_told(folder, original):
    for name in (".tables/shard-000001.parquet", "shard-000001.tar"):
        (folder / name).unlink()
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"neither manifest\.json nor a table tells of .*shard-000001\.tar"):
        repair(folder, chosen=STUB)
    done = repair(folder, chosen=STUB, change_hashes=True)
    assert [(name, before) for name, before, _ in done.changed] == [("shard-000001.tar", None)]
    assert hashes(folder) == hashes(original)


# growth


@pytest.mark.parametrize("steps", [(21,), (37,), (22, 23, 40)])
def test_an_extended_set_keeps_its_shards_and_equals_a_fresh_one_in_all_but_the_layout(
    folder, generator, tmp_path, steps
):
    before, was = identities(folder), hashes(folder)
    for total in steps:
        manifest = extend(folder, total, chosen=STUB)
        assert manifest.num_samples == total
    shards = {name for name in before if "shard-" in name}
    after = identities(folder)
    assert {name: after[name] for name in shards} == {name: before[name] for name in shards}
    assert {name: hashes(folder)[name] for name in shards} == {name: was[name] for name in shards}
    assert read_recipe(folder)["segments"] == [20, *np.diff([20, *steps]).tolist()]
    assert prove(folder, share=1, deep=True, chosen=STUB).faults == []
    generate(make_recipe(generator, **OPTIONS | {"num_samples": steps[-1]}), tmp_path / "fresh", generator=generator)
    found = diff(folder, tmp_path / "fresh")
    assert found.verdict == "equal in samples, different in layout"
    assert found.num_encoded == 0


def test_a_set_is_extended_from_inside_a_micro_batch_on_with_the_same_pixels(generator, tmp_path):
    fresh = make_recipe(generator, **OPTIONS | {"num_samples": 31})
    generate(make_recipe(generator, **OPTIONS | {"num_samples": 18}), tmp_path / "set", generator=generator)
    extend(tmp_path / "set", 31, chosen=STUB)
    generate(fresh, tmp_path / "fresh", generator=generator)
    assert diff(tmp_path / "set", tmp_path / "fresh").verdict == "equal in samples, different in layout"


def test_the_recipe_of_an_extended_set_makes_it_again_byte_for_byte(folder, generator, tmp_path):
    extend(folder, 37, chosen=STUB)
    generate(Recipe.from_json(read_recipe(folder)), tmp_path / "again", generator=generator)
    assert hashes(tmp_path / "again") == hashes(folder)


def test_the_same_extension_again_changes_nothing_and_a_smaller_number_is_refused(folder):
    extend(folder, 37, chosen=STUB)
    before = identities(folder)
    assert extend(folder, 37, chosen=STUB).num_samples == 37
    assert identities(folder) == before
    with pytest.raises(DataError, match=r"has 37 samples, more than the 20 asked for: .* genrep-shards subset"):
        extend(folder, 20, chosen=STUB)
    assert identities(folder) == before


class BrokenOffError(Exception):
    pass


@pytest.mark.parametrize("calls", range(1, 6))
def test_an_extension_that_broke_off_is_continued_by_the_same_call(folder, tmp_path, calls):
    shutil.copytree(folder, tmp_path / "whole")
    extend(tmp_path / "whole", 37, chosen=STUB)

    def break_off(done, total):
        nonlocal calls
        calls -= 1
        if not calls:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        extend(folder, 37, chosen=STUB, progress=break_off)
    with pytest.raises(DataError, match="the genrep-shards extend command that began it, run again, continues it"):
        genrep.shards.open(folder)
    with pytest.raises(DataError, match="is not finished"):
        extend(folder, 40, chosen=STUB)
    extend(folder, 37, chosen=STUB)
    assert hashes(folder) == hashes(tmp_path / "whole")


def test_a_damaged_set_is_not_extended(folder):
    edit_json(folder / "manifest.json", lambda m: m["totals"].update(bytes=1))
    before = identities(folder)
    with pytest.raises(DataError, match=r"manifest\.json has hashes, sizes or totals that cannot be"):
        extend(folder, 37, chosen=STUB)
    assert identities(folder) == before


@pytest.mark.parametrize("options", [{}, {"fresh_noise": True}])
@pytest.mark.parametrize("name", ["noisy", "conditional", "mapped"])
def test_added_views_joined_to_their_parent_are_one_set_that_was_generated_with_both(tmp_path, walks, name, options):
    chosen = Chosen(name=f"stub_generators:{name}", device="cpu")
    generator = load_generator(chosen.name)
    space = {"latent_space": "w"} if name == "mapped" else {}
    common = OPTIONS | options | space
    add, both = "independent,gauss", ("gauss", "independent", "gauss")
    if not space:
        from genrep.generate.walks import save_walks

        save_walks(walks, tmp_path / "walks.safetensors")
        add, both = add + ",steer", (*both, "steer")
        common |= {"walks": walks}
    generate(make_recipe(generator, views=both, **common), tmp_path / "one", generator=generator)
    own = {name: value for name, value in common.items() if name != "walks"}
    generate(make_recipe(generator, views=("gauss",), **own), tmp_path / "set", generator=generator)
    path = None if space else tmp_path / "walks.safetensors"
    add_views(tmp_path / "set", tmp_path / "more", views=add, walks_path=path, chosen=chosen)
    assert prove(tmp_path / "more", share=1, deep=True, chosen=chosen).faults == []
    one, joined = genrep.shards.open(tmp_path / "one"), genrep.shards.open(tmp_path / "set", join=tmp_path / "more")
    assert joined.member_names == one.member_names
    assert (joined.num_views, len(joined), joined.shard_counts) == (len(both), 37, one.shard_counts)
    assert joined.recipe["views"] == one.recipe["views"]
    np.testing.assert_array_equal(joined.labels, one.labels)
    for position in range(37):
        assert joined.members(position) == one.members(position)
        assert list(joined.members(position)) == list(one.members(position))
        np.testing.assert_array_equal(joined[position].images, one[position].images)
        np.testing.assert_array_equal(joined[position].latents, one[position].latents)
        assert joined[position].meta == one[position].meta
    assert list(joined.members(3, ["view2.png", "anchor.png"])) == ["anchor.png", "view2.png"]


def test_added_views_take_strength_and_walks_of_their_parent_unless_told(generator, tmp_path, walks):
    recipe = make_recipe(generator, views=("gauss", "steer"), std=0.7, walks=walks, **OPTIONS)
    generate(recipe, tmp_path / "set", generator=generator)
    add_views(tmp_path / "set", tmp_path / "more", views="uniform,steer", chosen=STUB)
    found = read_recipe(tmp_path / "more")
    assert (found["std"], found["walks"], found["seed"]) == (0.7, recipe.to_json()["walks"], recipe.seed)
    assert found["parent"]["views"] == ["gauss", "steer"]
    add_views(tmp_path / "set", tmp_path / "other", views="independent", chosen=STUB)
    assert (read_recipe(tmp_path / "other")["std"], read_recipe(tmp_path / "other")["walks"]) == (None, None)


def test_added_views_are_a_set_that_its_recipe_makes_again_and_that_can_be_mended(folder, generator, tmp_path):
    add_views(folder, tmp_path / "more", views="angular", chosen=STUB)
    assert verify(tmp_path / "more", deep=True) == []
    generate(Recipe.from_json(read_recipe(tmp_path / "more")), tmp_path / "again", generator=generator)
    was = hashes(tmp_path / "more")
    assert hashes(tmp_path / "again") == was
    assert was["shard-000000.tar"]
    (tmp_path / "more/shard-000001.tar").unlink()
    assert repair(tmp_path / "more", chosen=STUB).rebuilt == ["shard-000001.tar"]
    assert hashes(tmp_path / "more") == was


def test_views_are_joined_to_their_own_parent_alone(folder, tmp_path, generator):
    add_views(folder, tmp_path / "more", views="angular", chosen=STUB)
    shutil.copytree(folder, tmp_path / "grown")
    extend(tmp_path / "grown", 37, chosen=STUB)
    generate(make_recipe(generator, seed=1, **OPTIONS | {"num_samples": 20}), tmp_path / "other", generator=generator)
    for wrong in ("grown", "other"):
        with pytest.raises(DataError, match=f"more holds views of another set than .*{wrong}"):
            genrep.shards.open(tmp_path / wrong, join=tmp_path / "more")
    with pytest.raises(DataError, match="holds no added views"):
        genrep.shards.open(folder, join=tmp_path / "other")
    with pytest.raises(DataError, match="holds added views itself"):
        add_views(tmp_path / "more", tmp_path / "deeper", views="gauss", chosen=STUB)
    with pytest.raises(DataError, match="extend that one, and add the views again"):
        extend(tmp_path / "more", 37, chosen=STUB)


def test_views_of_an_extended_set_lie_in_shards_like_its_own(folder, tmp_path):
    extend(folder, 31, chosen=STUB)
    add_views(folder, tmp_path / "more", views="angular", chosen=STUB)
    joined = genrep.shards.open(folder, join=tmp_path / "more")
    assert [sample.images.shape[0] for sample in joined] == [3] * 31


def test_a_joined_set_can_be_a_subset_and_can_be_pickled(folder, tmp_path):
    import pickle

    from genrep.shards.subset import parse_ranges, subset_bytes

    add_views(folder, tmp_path / "more", views="angular", chosen=STUB)
    few = tmp_path / "few.json"
    few.write_bytes(subset_bytes(folder, parse_ranges("3,7-9,19"), path=few))
    whole = genrep.shards.open(folder, join=tmp_path / "more")
    joined = pickle.loads(pickle.dumps(genrep.shards.open(few, join=tmp_path / "more")))
    assert [sample.index for sample in joined] == [3, 7, 8, 9, 19]
    for position, index in enumerate(joined.indices):
        np.testing.assert_array_equal(joined[position].images, whole[index].images)


@pytest.mark.parametrize("name", ["os:mkdir", "trap:load"])
def test_a_recipe_from_elsewhere_runs_no_code_it_names(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("open('sprung', 'w')\n")
    for file in ("recipe.json", "manifest.json"):
        edit_json(folder / file, lambda c: (c if "generator" in c else c["recipe"])["generator"].update(name=name))
    before = hashes(tmp_path)
    (folder / "shard-000001.tar").rename(tmp_path / "kept")
    for act in (
        lambda: prove(folder, share=1),
        lambda: repair(folder, change_hashes=True),
        lambda: extend(folder, 37),
        lambda: add_views(folder, tmp_path / "more", views="gauss"),
    ):
        with pytest.raises(DataError, match=f"names generator '{name}', which is not registered; a recipe cannot say"):
            act()
    (tmp_path / "kept").rename(folder / "shard-000001.tar")
    assert hashes(tmp_path) == before


def test_elsewhere_is_another_environment(monkeypatch):
    from genrep.generate.render import render_environment

    recipe = make_recipe(load_generator("fashion"))
    before = render_environment("cpu", recipe)
    elsewhere(monkeypatch)
    assert render_environment("cpu", recipe) != before
    assert torch.backends.cpu.get_cpu_capability() == "ANOTHER"
