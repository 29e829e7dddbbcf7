import hashlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from child_runs import ChildRun
from click.testing import CliRunner

from genrep.generate.command import main
from genrep.generate.walks import save_walks
from genrep.shards import read

STUB = ["--generator", "stub_generators:conditional"]
SMALL = [*STUB, "--n", "40", "--shard-size", "8", "--micro-batch", "4"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def hashes(folder):
    files = [*sorted(folder.glob("shard-*.tar")), *sorted((folder / ".tables").glob("*")), folder / "manifest.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def identities(folder):
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.glob("shard-*.tar")}


def test_the_folder_is_named_after_the_recipe_if_none_is_given(tmp_path):
    result = run(*SMALL)
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("stub_generators-conditional-gauss-n40-seed0-")
    assert result.output == f"40 samples in 5 shards in {folder.name}\n"
    assert json.loads((folder / "manifest.json").read_text())["totals"]["samples"] == 40


def test_a_set_may_be_written_to_a_url_and_continued_there(tmp_path):
    import fsspec

    url = "memory://generated/set"
    assert run(*SMALL, "--out", url).output == f"40 samples in 5 shards in {url}\n"
    assert run(*SMALL, "--out", tmp_path / "set").exit_code == 0
    store = fsspec.filesystem("memory")
    for name in ("shard-000003.tar", ".tables/shard-000003.parquet", "manifest.json"):
        assert store.cat_file(f"/generated/set/{name}") == (tmp_path / "set" / name).read_bytes()
    store.rm_file("/generated/set/shard-000003.tar")
    assert "1 to write of 5" in run(*SMALL, "--out", url, "--dry-run").output
    assert run(*SMALL, "--out", url).exit_code == 0
    assert store.cat_file("/generated/set/shard-000003.tar") == (tmp_path / "set" / "shard-000003.tar").read_bytes()
    assert "seed is 0 there and 1 here" in run(*SMALL, "--out", url, "--seed", "1").output


def test_quiet_says_nothing():
    assert run(*SMALL, "--quiet").output == ""


def test_every_kind_of_view_can_be_written(tmp_path, walks):
    save_walks(walks, tmp_path / "walks.safetensors")
    result = run(
        *SMALL, "--views", "gauss,steer,independent,angular,uniform,gauss+steer", "--walks", "walks.safetensors",
        "--std", "0.3", "--truncation", "0.8", "--classes", "ant,2", "--seed", "5", "--out", "set",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    recipe = json.loads((tmp_path / "set/recipe.json").read_text())
    assert recipe["views"] == ["gauss", "steer", "independent", "angular", "uniform", "gauss+steer"]
    assert (recipe["std"], recipe["classes"], recipe["seed"]) == (0.3, [0, 2], 5)
    assert recipe["generator"]["truncation"] == 0.8
    assert recipe["walks"]["names"] == ["zoom", "shift"]


def test_layers_of_w_plus_can_be_moved_and_another_style_mixed_in(tmp_path):
    """Rows of latents.npy hold a w for each layer; layers that no move names are the anchor's."""
    result = run(
        "--generator", "stylegan2", "--generator-arg", "config=tiny", "--latent-space", "w+", "--n", "6",
        "--views", "gauss@6-7,independent@0-2", "--out", "set",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    samples = list(read(tmp_path / "set"))
    latents = np.stack([sample.latents for sample in samples]).reshape(6, 3, 8, 32)
    assert samples[0].meta["views"][0]["coordinates"] == {"gauss": [[192, 255]]}
    same = (latents[:, 1:] == latents[:, :1]).all(axis=(0, 3))
    assert same.tolist() == [[True] * 6 + [False] * 2, [False] * 3 + [True] * 5]
    again = run("--generator", "stylegan2", "--generator-arg", "config=tiny", "--from-recipe", "set/recipe.json")
    assert again.exit_code == 0, again.output


def test_formats_sizes_and_precision_can_be_chosen(tmp_path):
    wide = ["--generator", "stub_generators:wide", "--n", "5", "--views", "none"]
    for options in (
        ["--format", "jpg", "--quality", "80", "--subsampling", "4:2:0"],
        ["--format", "webp", "--resize", "4"],
        ["--dtype", "bfloat16", "--num-views", "2", "--views", "uniform", "--device", "cpu", "--encode-workers", "2"],
    ):
        assert run(*wide, *options, "--out", options[1]).exit_code == 0
    image = json.loads((tmp_path / "jpg/recipe.json").read_text())["image"]
    assert (image["quality"], image["subsampling"]) == (80, "4:2:0")
    assert json.loads((tmp_path / "webp/recipe.json").read_text())["image"]["height"] == 4


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--n", "0"], 2, "0 is not in the range"),
        (["--truncation", "0"], 2, "0.0 is not in the range"),
        (["--truncation", "1.2"], 2, "1.2 is not in the range"),
        (["--seed", "-1"], 2, "-1 is not in the range"),
        (["--generator-arg", "gain"], 2, "'gain' is not of the form KEY=VALUE"),
        (["--generator", "fashon"], 1, "no generator 'fashon'; registered:"),
        (["--generator", "stub_generators:absent"], 1, "has no function absent"),
        (["--weights", "nowhere"], 1, "no weights at nowhere"),
        (["--views", "gaus"], 1, "'gaus' is no kind of view; known: none, gauss"),
        (["--views", "gauss@1"], 1, "@1 must name blocks of the latent in ascending order, from 0 to 0"),
        (["--views", "gauss@c2-9"], 1, "@c2-9 must name coordinates of the latent in ascending order, from 0 to 3"),
        (["--views", "gauss@first"], 1, "what follows @ must be blocks such as 0-1/4"),
        (["--latent-space", "w+"], 1, "renders from z, not from 'w+'"),
        (["--views", "gauss,steer", "--num-views", "3"], 1, "names 2 views, 3 are asked for"),
        (["--views", "steer"], 1, "ships no walks"),
        (["--views", "steer", "--walks", "nowhere"], 1, "nowhere: there is no such file"),
        (["--classes", "wasp"], 1, "'wasp' is no class; known: ant, bee, sea cat"),
        (["--classes", "0-9"], 1, "no class 0-9; the generator has 0-2"),
        (["--generator", "stub_generators:unconditional", "--classes", "0"], 1, "is unconditional"),
        (["--latent-space", "w"], 1, "renders from z, not from 'w'"),
        (["--shard-size", "100", "--micro-batch", "64"], 1, "no multiple of the micro-batch 64"),
        (["--device", "tpu"], 1, "device 'tpu' is not known"),
        (["--resize", "9"], 1, "can only shrink"),
        (["--from-recipe", "nowhere.json"], 1, "nowhere.json: No such file"),
        (["--from-recipe", "nowhere.json", "--seed", "1"], 2, "--seed is part of the recipe"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_wrong_input_is_one_line_and_leaves_nothing_behind(tmp_path, arguments, status, complaint, dry_run):
    result = run(*STUB, *arguments, *dry_run, "--out", "set")
    assert result.exit_code == status
    message = result.output.splitlines()[-1]
    assert message.startswith("Error: ")
    assert complaint in message
    assert isinstance(result.exception, SystemExit)
    if status == 1:
        assert len(result.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_walks_of_another_generator_are_refused(tmp_path, walks):
    import dataclasses

    save_walks(dataclasses.replace(walks, generator="0" * 64), tmp_path / "other.safetensors")
    save_walks(dataclasses.replace(walks, directions=np.ones((2, 7), np.float32)), tmp_path / "seven.safetensors")
    for name, complaint in (("other", "are of another generator"), ("seven", "have 7 coordinates")):
        result = run(*SMALL, "--views", "steer", "--walks", f"{name}.safetensors", "--out", "set")
        assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
        assert complaint in result.output
    assert not (tmp_path / "set").exists()


def test_a_folder_with_another_recipe_is_refused_and_left_alone(tmp_path):
    assert run(*SMALL, "--out", "set").exit_code == 0
    before = hashes(tmp_path / "set")
    result = run(*SMALL, "--seed", "1", "--out", "set")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert "seed" in result.output
    assert hashes(tmp_path / "set") == before


def test_a_recipe_makes_the_same_set_again(tmp_path):
    assert run(*SMALL, "--generator-arg", "gain=2", "--out", "first").exit_code == 0
    trusted = ["--from-recipe", "first/recipe.json", *STUB]
    assert run(*trusted, "--generator-arg", "gain=2", "--out", "second").exit_code == 0
    assert hashes(tmp_path / "first") == hashes(tmp_path / "second")
    result = run(*trusted, "--out", "third")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert "does not fit the recipe" in result.output
    assert "give the weights and --generator-arg it was made with" in result.output


@pytest.mark.parametrize("name", ["stub_generators:conditional", "os:mkdir", "trap:load", "trap"])
def test_a_recipe_from_elsewhere_runs_no_code_it_names(tmp_path, name):
    assert run(*SMALL, "--out", "set").exit_code == 0
    recipe = json.loads((tmp_path / "set/recipe.json").read_text())
    recipe["generator"]["name"] = name
    (tmp_path / "hostile.json").write_text(json.dumps(recipe))
    (tmp_path / "trap.py").write_text("open('sprung', 'w')\n")
    result = run("--from-recipe", "hostile.json", "--out", "again")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert f"names generator {name!r}, which is not registered" in result.output
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "again").exists()


def test_a_dry_run_prints_the_cost_and_writes_nothing(tmp_path):
    result = run(*STUB, "--n", "1300000", "--dry-run")
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []
    for expected in ("2,600,000 to render", "images/s", "318 to write of 318", "png (jpg", "time ", "318 shards, "):
        assert expected in result.output


def test_a_dry_run_counts_what_is_missing_of_each_ranks_own_shards(tmp_path):
    from genrep.generate.defaults import make_recipe
    from genrep.generate.generation import Rank
    from genrep.generate.generators import load_generator
    from genrep.generate.plan import make_plan, show_plan
    from genrep.generate.render import Renderer

    generator = load_generator("stub_generators:conditional")
    recipe = make_recipe(generator, num_samples=36, shard_size=8, micro_batch=8)
    (tmp_path / "shard-000001.tar").touch()
    (tmp_path / "shard-000003.tar").touch()  # shards 0, 2 and 4 are rank 0's, 1 and 3 were rank 1's
    plan = make_plan(recipe, Renderer(generator, recipe), tmp_path, encode_workers=1, rank=Rank(0, 2))
    assert plan.rank_shards == (3, 0)
    assert plan.num_images == 2 * 20
    assert plan.seconds == plan.rank_seconds[0] > plan.rank_seconds[1] == 0
    told = show_plan(plan, recipe, tmp_path, rank=Rank(0, 2), device="cpu")
    assert "per rank   0 to 3 shards, " in told
    assert "with 2 ranks" in told


def test_only_the_first_rank_tells_the_plan(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(*STUB, "--dry-run").output == ""
    monkeypatch.setenv("RANK", "0")
    assert "with 2 ranks" in run(*STUB, "--dry-run").output


def test_a_dry_run_predicts_the_size_that_is_then_written(tmp_path):
    from genrep.generate import load_generator, make_recipe
    from genrep.generate.generation import Rank
    from genrep.generate.plan import make_plan
    from genrep.generate.render import Renderer

    recipe = make_recipe(load_generator(STUB[1]), num_samples=2000)
    renderer = Renderer(load_generator(STUB[1]), recipe)
    plan = make_plan(recipe, renderer, tmp_path / "set", encode_workers=1, rank=Rank())
    assert (plan.num_images, plan.num_shards, plan.num_missing) == (4000, 1, 1)
    assert run(*STUB, "--n", "2000", "--out", "set").exit_code == 0
    files = [*(tmp_path / "set").glob("*.tar"), *(tmp_path / "set/.tables").glob("*")]
    assert plan.format_bytes["png"] == pytest.approx(sum(file.stat().st_size for file in files), rel=0.1)
    assert make_plan(recipe, renderer, tmp_path / "set", encode_workers=1, rank=Rank()).num_missing == 0


def test_help_and_usage_faults_import_nothing_heavy():
    script = (
        "import sys\n"
        "from genrep.generate.command import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'scipy', 'PIL', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "genrep-generate --n 1300000 --views steer" in result.stdout


def test_a_run_killed_at_several_points_ends_with_the_same_bytes(tmp_path):
    assert run(*SMALL, "--out", "whole").exit_code == 0
    folder, finished = tmp_path / "set", {}
    for number in range(4):  # before the first shard is whole, then in the middle of each further one
        child = ChildRun(tmp_path, *SMALL, "--out", "set", STUB_SECONDS_A_RENDER="0.05")
        child.wait_until(lambda: (folder / "recipe.json").exists() and len(identities(folder)) >= number)  # noqa: B023
        time.sleep(0.08)
        child.signal(signal.SIGKILL)
        assert child.status() == -signal.SIGKILL
        now = identities(folder)
        assert now.items() >= finished.items()
        finished = now
    assert len(finished) >= 3
    assert not (folder / "manifest.json").exists()
    assert run(*SMALL, "--out", "set").exit_code == 0
    assert identities(folder).items() >= finished.items()
    assert hashes(folder) == hashes(tmp_path / "whole")
    assert not [file for file in folder.rglob("*") if ".tmp-" in file.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_says_so_in_one_line_and_can_be_continued(tmp_path, number):
    child = ChildRun(tmp_path, *SMALL, "--out", "set", STUB_SECONDS_A_RENDER="0.05")
    child.wait_until(lambda: identities(tmp_path / "set"))
    child.signal(number)
    assert child.status() == 1
    assert child.output() == "Error: interrupted (finished shards are in set); run the same command to continue\n"
    assert not [file for file in (tmp_path / "set").rglob("*") if ".tmp-" in file.name]
    assert run(*SMALL, "--out", "set").exit_code == 0
    assert run(*SMALL, "--out", "whole").exit_code == 0
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")


def test_two_ranks_and_a_stranger_on_one_folder_write_one_set(tmp_path):
    """Two processes as torchrun starts them, and a third that knows of neither, all at the same time."""
    ranks = [{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)} for rank in range(2)]
    children = [
        ChildRun(tmp_path, *SMALL, "--out", "set", STUB_SECONDS_A_RENDER="0.01", **rank) for rank in [*ranks, {}]
    ]
    assert [child.status() for child in children] == [0, 0, 0], [child.output() for child in children]
    assert run(*SMALL, "--out", "whole").exit_code == 0
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")


def test_the_command_of_the_readme_is_accepted_and_starts_to_write(tmp_path):
    """`genrep-generate --n 1300000 --views steer`, to the letter; stopped once it has begun."""
    child = ChildRun(tmp_path, "--n", "1300000", "--views", "steer")
    child.wait_until(lambda: list(tmp_path.glob("fashion-steer-n1300000-seed0-*/recipe.json")))
    child.signal(signal.SIGTERM)
    assert child.status() == 1
    assert "run the same command to continue" in child.output()
