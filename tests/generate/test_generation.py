import dataclasses
import hashlib
import json
import logging
import tarfile
import threading

import numpy as np
import pytest
import torch
from stub_generators import Stub

from genrep.generate import Recipe, generate, load_generator, make_recipe
from genrep.generate.generation import Rank, rank_from_environment, resolve_device
from genrep.generate.generators import LoadedGenerator
from genrep.generate.samples import draw_samples
from genrep.shards.codec import decode
from genrep.shards.errors import DataError

OPTIONS = {"num_samples": 37, "shard_size": 8, "micro_batch": 4}


@pytest.fixture
def generator():
    return load_generator("stub_generators:conditional")


@pytest.fixture
def recipe(generator, walks):
    return make_recipe(generator, views=("gauss", "steer"), walks=walks, **OPTIONS)


def hashes(folder):
    """Of everything in the folder but its name."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "README.md"
    }


def identities(folder):
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.rglob("shard-*")}


def members(folder):
    """Key -> member -> bytes, by the standard library alone."""
    found = {}
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as archive:
            for entry in archive:
                key, _, member = entry.name.partition(".")
                found.setdefault(key, {})[member] = archive.extractfile(entry).read()
    return found


def test_the_set_holds_the_samples_of_the_recipe(generator, recipe, tmp_path):
    import io

    manifest = generate(recipe, tmp_path / "set", generator=generator)
    assert manifest.num_samples == 37
    found = members(tmp_path / "set")
    drawn = draw_samples(recipe, range(37))
    assert list(found) == [f"{index:09d}" for index in range(37)]
    for index, sample in enumerate(found.values()):
        assert list(sample) == ["anchor.png", "view1.png", "view2.png", "latents.npy", "cls", "json"]
        np.testing.assert_array_equal(np.load(io.BytesIO(sample["latents.npy"])), drawn.latents[index])
        assert int(sample["cls"]) == drawn.labels[index]
        meta = json.loads(sample["json"])
        assert meta["index"] == index
        assert meta["views"][1]["strengths"]["zoom"] == drawn.strengths[1]["zoom"][index]
        label = torch.tensor([drawn.labels[index]])
        for view, name in enumerate(("anchor.png", "view1.png", "view2.png")):
            image = generator.render(torch.from_numpy(drawn.latents[index : index + 1, view]), label)[0, 0]
            grey_levels = ((image + 1) * 127.5).round().numpy()
            assert np.abs(decode(sample[name], channels=1)[:, :, 0] - grey_levels).max() <= 1


def test_quotas_are_exact(generator, tmp_path):
    generate(make_recipe(generator, views=(), **OPTIONS), tmp_path / "set", generator=generator)
    labels = [int(sample["cls"]) for sample in members(tmp_path / "set").values()]
    assert sorted(np.bincount(labels).tolist()) == [12, 12, 13]


def test_two_runs_write_equal_bytes_whatever_the_number_of_encode_workers(generator, recipe, tmp_path):
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        generate(recipe, tmp_path / name, generator=generator, encode_workers=workers)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "again") == hashes(tmp_path / "two")
    assert len(list((tmp_path / "one").glob("shard-*.tar"))) == 5


class Together(Stub):
    """Renders nothing before two threads have come."""

    thread_safe = True

    def __init__(self):
        super().__init__()
        self.threads, self.both = set(), threading.Event()

    def render(self, latents, labels):
        self.threads.add(threading.current_thread())
        if len(self.threads) == 2:
            self.both.set()
        self.both.wait(20)
        return super().render(latents, labels)


def test_a_thread_safe_generator_is_rendered_by_as_many_threads_as_torch_has_and_the_bytes_stay(tmp_path):
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            generator = LoadedGenerator(Together(), spec="stub", arguments={})
            if threads == 1:
                generator.plug_in.both.set()
            recipe = make_recipe(generator, num_samples=8, micro_batch=4, shard_size=8)
            generate(recipe, tmp_path / f"{threads}", generator=generator)
            found[threads] = len(generator.plug_in.threads), hashes(tmp_path / f"{threads}")
    finally:
        torch.set_num_threads(before)
    assert (found[2][0], found[1][0]) == (2, 1)
    assert found[2][1] == found[1][1]


@pytest.mark.parametrize("world", [2, 3, 7])
def test_any_number_of_ranks_writes_the_same_set_and_the_last_one_finishes_it(generator, recipe, tmp_path, world):
    generate(recipe, tmp_path / "alone", generator=generator)
    results = [
        generate(recipe, tmp_path / "shared", generator=generator, rank=Rank(rank, world))
        for rank in reversed(range(world))
    ]
    assert results[: world - 1] == [None] * (world - 1) or world > 5  # ranks beyond the shards find others at work
    assert results[-1] is not None
    assert hashes(tmp_path / "shared") == hashes(tmp_path / "alone")


def test_another_number_of_ranks_finishes_what_one_began(generator, recipe, tmp_path):
    generate(recipe, tmp_path / "alone", generator=generator)
    assert generate(recipe, tmp_path / "shared", generator=generator, rank=Rank(2, 3)) is None
    before = identities(tmp_path / "shared")
    assert generate(recipe, tmp_path / "shared", generator=generator) is not None
    assert hashes(tmp_path / "shared") == hashes(tmp_path / "alone")
    assert identities(tmp_path / "shared").items() >= before.items()


def test_whole_shards_are_those_of_a_set_twice_as_large(generator, recipe, tmp_path):
    generate(recipe, tmp_path / "small", generator=generator)
    generate(dataclasses.replace(recipe, num_samples=74), tmp_path / "large", generator=generator)
    small, large = hashes(tmp_path / "small"), hashes(tmp_path / "large")
    for number in range(4):  # the fifth is short in the smaller set
        for name in (f"shard-{number:06d}.tar", f".tables/shard-{number:06d}.parquet"):
            assert small[name] == large[name]
    first, both = members(tmp_path / "small"), members(tmp_path / "large")
    assert {key: both[key] for key in first} == first


def test_another_shard_size_changes_the_layout_and_no_sample(generator, recipe, tmp_path):
    generate(recipe, tmp_path / "eight", generator=generator)
    generate(dataclasses.replace(recipe, shard_size=12), tmp_path / "twelve", generator=generator)
    assert members(tmp_path / "eight") == members(tmp_path / "twelve")


class BrokenOffError(Exception):
    pass


@pytest.mark.parametrize("calls", [1, 2, 5, 11])
def test_a_run_that_broke_off_is_continued_and_no_finished_shard_is_written_again(generator, recipe, tmp_path, calls):
    generate(recipe, tmp_path / "whole", generator=generator)

    def break_off(done, total):
        nonlocal calls
        calls -= 1
        if not calls:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        generate(recipe, tmp_path / "broken", generator=generator, progress=break_off)
    assert not (tmp_path / "broken/manifest.json").exists()
    before = identities(tmp_path / "broken")
    generate(recipe, tmp_path / "broken", generator=generator)
    assert hashes(tmp_path / "broken") == hashes(tmp_path / "whole")
    assert identities(tmp_path / "broken").items() >= before.items()


def test_a_finished_set_is_left_as_it_is(generator, recipe, tmp_path):
    first = generate(recipe, tmp_path / "set", generator=generator)
    before = identities(tmp_path / "set")
    assert generate(recipe, tmp_path / "set", generator=generator) == first
    assert identities(tmp_path / "set") == before


def test_progress_counts_the_samples_of_this_rank(generator, recipe, tmp_path):
    seen = []
    generate(recipe, tmp_path / "set", generator=generator, rank=Rank(1, 2), progress=lambda *state: seen.append(state))
    assert seen == [(done, 16) for done in (0, 4, 8, 12, 16)]
    seen.clear()
    generate(recipe, tmp_path / "set", generator=generator, progress=lambda *state: seen.append(state))
    assert seen[0] == (16, 37)
    assert seen[-1] == (37, 37)


def test_a_folder_with_another_recipe_is_refused_by_the_field_that_differs(generator, recipe, tmp_path):
    generate(recipe, tmp_path / "set", generator=generator)
    with pytest.raises(DataError, match="seed"):
        generate(dataclasses.replace(recipe, seed=1), tmp_path / "set", generator=generator)


def test_a_recipe_as_json_is_taken_too(generator, recipe, tmp_path):
    generate(recipe.to_json(), tmp_path / "set", generator=generator)
    assert Recipe.from_json(json.loads((tmp_path / "set/recipe.json").read_text())).to_json() == recipe.to_json()


def test_a_recipe_alone_runs_no_code_it_names(recipe, tmp_path):
    with pytest.raises(DataError, match="'stub_generators:conditional', which is not registered"):
        generate(recipe, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_another_generator_than_the_recipes_is_refused_before_anything_is_written(recipe, tmp_path):
    with pytest.raises(DataError, match="does not fit the recipe"):
        generate(recipe, tmp_path / "set", generator=load_generator("stub_generators:unconditional"))
    assert not (tmp_path / "set").exists()


def test_going_on_in_another_environment_is_one_warning(generator, recipe, tmp_path, monkeypatch, caplog):
    generate(recipe, tmp_path / "set", generator=generator, rank=Rank(0, 2))
    assert caplog.records == []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")
    with caplog.at_level(logging.WARNING):
        manifest = generate(recipe, tmp_path / "set", generator=generator)
    (record,) = caplog.records
    assert "another environment (cpu_capability was" in record.getMessage()
    assert "is ANOTHER" in record.getMessage()
    assert manifest.shards[1].environment["cpu_capability"] == "ANOTHER"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(3, 8, 1)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Rank(3, 8, 1)),
        (
            {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "8"}
            | {"SLURM_STEP_NUM_TASKS": "2"},
            Rank(1, 2, 0),
        ),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Rank()),  # a batch script, not a task of srun
    ],
)
def test_the_rank_comes_from_torchrun_or_srun(environment, expected):
    assert rank_from_environment(environment) == expected


@pytest.mark.parametrize("environment", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_a_rank_that_cannot_be_is_refused(environment):
    with pytest.raises(DataError, match="RANK"):
        rank_from_environment(environment)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "mps"] + ["cuda"] * (not torch.cuda.is_available()))
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(DataError, match=f"device '{device}'"):
        resolve_device(device, Rank())
