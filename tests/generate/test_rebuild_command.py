"""genrep-shards verify --prove, repair, recipe, diff, extend, add-views and subset as they are typed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from forgery import flip, forge, hashes, identities, place_of
from test_proof import darker

from genrep.generate.command import main as generate
from genrep.shards.command import main as shards

STUB = ["--generator", "stub_generators:conditional"]
SMALL = [*STUB, "--n", "20", "--shard-size", "8", "--micro-batch", "4", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "set"
    assert CliRunner().invoke(generate, [*SMALL, "--out", str(folder)]).exit_code == 0
    return folder


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    shutil.copytree(original, tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "set"


def run(*words):
    return CliRunner().invoke(shards, [str(word) for word in words], catch_exceptions=False)


def error_of(*words, status=1):
    result = run(*words)
    assert result.exit_code == status, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def damage(folder):
    path, offset, _ = place_of(folder, "000000009", "anchor.png")
    flip(path, offset + 45)


@pytest.mark.parametrize("command", ["verify", "repair", "recipe", "diff", "extend", "add-views", "subset"])
def test_every_command_explains_itself_with_an_example(command):
    text = run(command, "--help").output
    assert f"\n    genrep-shards {command} " in text
    assert "--quiet" in text


def test_prove_says_what_was_rendered_again_and_from_which_seed(folder):
    result = run("verify", "set", "--prove", "50%", "--seed", "3", *STUB)
    assert result.exit_code == 0
    assert result.output == (
        "set is whole: 20 samples checked\n"
        "it is what recipe and generator give: 12 samples rendered again (--seed 3), every image has the same bytes\n"
    )
    seeds = {re.search(r"--seed (\d+)", run("verify", "set", "--prove", "1%", *STUB).output)[1] for _ in range(4)}
    assert len(seeds) == 4  # nobody can foresee what will be rendered
    assert run("verify", "set", "--prove", "1%", *STUB, "--quiet").output == ""


@pytest.mark.parametrize("share", ["1", "0.01", "101%", "-1%", "x%", "nan%", ""])
def test_a_share_that_is_no_percentage_is_a_usage_fault(folder, share):
    assert "is no percentage" in error_of("verify", "set", "--prove", share, status=2)


def test_a_forged_image_is_found_by_prove_with_shard_key_and_member(folder):
    forge(folder, lambda key, name, old: darker(old) if (key, name) == ("000000009", "view1.png") else old)
    assert run("verify", "set", "--deep").exit_code == 0
    result = run("verify", "set", "--prove", "100%", "--seed", "5", *STUB)
    assert result.exit_code == 1
    assert result.stdout.startswith("shard-000001.tar, sample 000000009, view1.png: is not what the generator renders")
    assert result.stderr == (
        "Error: set is damaged (1 found; rendered again from --seed 5): get these files again, or mend them with "
        "genrep-shards repair set\n"
    )


def test_repair_says_what_it_rebuilt(folder, original):
    damage(folder)
    assert "genrep-shards repair set" in run("verify", "set").stderr
    assert run("repair", "set", *STUB).output == "set is whole: shard-000001.tar rebuilt\n"
    assert hashes(folder) == hashes(original)
    assert run("repair", "set", *STUB).output == "set is whole: no shard rebuilt\n"
    assert run("repair", "set", *STUB, "--quiet").output == ""


def test_repair_lists_changed_hashes(folder, original):
    forge(folder, lambda key, name, old: darker(old) if (key, name) == ("000000009", "view1.png") else old)
    before = hashes(folder)["shard-000001.tar"]
    assert "--change-hashes" in error_of("repair", "set", "--prove", "100%", *STUB)
    result = run("repair", "set", "--prove", "100%", "--seed", "1", "--change-hashes", *STUB)
    assert result.output == (
        f"shard-000001.tar: sha256 was {before}, is {hashes(original)['shard-000001.tar']}\n"
        "set is whole (images rendered again from seed 1): shard-000001.tar rebuilt\n"
    )


def test_what_repair_cannot_mend_is_named_and_the_status_is_one(folder):
    shutil.copy(folder / "shard-000000.tar", folder / "shard-000007.tar")
    result = run("repair", "set", *STUB)
    assert result.exit_code == 1
    assert result.stdout == "shard-000007.tar: is no shard of this recipe: remove it\n"
    assert result.stderr == "Error: set is still damaged (1 found): see above\n"


def test_a_set_is_its_recipe(folder, tmp_path):
    result = run("recipe", "set")
    assert result.output == (folder / "recipe.json").read_text()
    Path("recipe.json").write_text(result.output)
    made = CliRunner().invoke(generate, ["--from-recipe", "recipe.json", *STUB, "--out", "again", "--quiet"])
    assert made.exit_code == 0, made.output
    assert hashes(tmp_path / "again") == hashes(folder)
    assert run("diff", "set", "again").output.splitlines()[-1] == "equal"
    assert run("diff", "set", "again", "--quiet").output == ""


def test_the_recipe_of_a_set_that_grew_makes_it_again(folder, tmp_path):
    assert run("extend", "set", "--n", "37", *STUB).output == "37 samples in 6 shards in set\n"
    run("add-views", "set", "--views", "angular", "--out", "more", *STUB)
    for name in ("set", "more"):
        Path("recipe.json").write_text(run("recipe", name).output)
        CliRunner().invoke(generate, ["--from-recipe", "recipe.json", *STUB, "--out", f"{name}-again", "--quiet"])
        assert hashes(tmp_path / f"{name}-again") == hashes(tmp_path / name)


def test_an_extended_set_and_a_fresh_one_are_called_equal_in_samples(folder):
    run("extend", "set", "--n", "37", *STUB, "--quiet")
    assert CliRunner().invoke(generate, [*SMALL, "--n", "37", "--out", "fresh"]).exit_code == 0
    result = run("diff", "set", "fresh")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "equal in samples, different in layout"
    assert "layout    segments is [20, 17] and null" in result.output


def test_added_views_are_verified_alone(folder):
    result = run("add-views", "set", "--views", "gauss", "--num-views", "2", "--std", "0.1", "--out", "more", *STUB)
    assert result.output == "views of 20 samples in 3 shards in more\n"
    assert json.loads(Path("more/recipe.json").read_text())["views"] == ["gauss", "gauss"]
    assert "is whole" in run("verify", "more", "--prove", "100%", "--deep", *STUB).output
    assert "20 generated, 40 images" in run("info", "more").output
    assert run("preview", "more", "--out", "sheet.png").exit_code == 0


def test_a_subset_is_verified_in_place_of_its_set(folder):
    result = run("subset", "set", "--samples", "0-3,17", "--out", "few.json")
    assert result.output == "5 samples of set in few.json\n"
    assert run("verify", "few.json").output == "few.json is whole: 12 samples checked\n"
    assert "16 samples" not in run("verify", "few.json", "--prove", "100%", *STUB).output
    damage(folder)
    assert run("verify", "few.json").exit_code == 0
    run("subset", "set", "--samples", "9", "--out", "nine.json")
    assert "sample 000000009, anchor.png" in run("verify", "nine.json").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "set", "--prove", "1%"], "names generator 'stub_generators:conditional', which is not registered"),
        (["repair", "set"], "names generator 'stub_generators:conditional', which is not registered"),
        (["extend", "set", "--n", "30"], "which is not registered; a recipe cannot say what code to run"),
        (["add-views", "set", "--views", "gauss", "--out", "more"], "repeat it as --generator"),
        (["verify", "set", "--prove", "1%", "--generator", "fashion"], "generator fashion does not fit the recipe"),
        (["repair", "set", *STUB, "--generator-arg", "gain=2"], "does not fit the recipe: its fingerprint is"),
        (["repair", "set", *STUB, "--weights", "nowhere"], "there are no weights at nowhere"),
        (["extend", "set", "--n", "19", *STUB], "has 20 samples, more than the 19 asked for"),
        (["add-views", "set", "--views", "gaus", "--out", "more", *STUB], "'gaus' is no kind of view"),
        (["add-views", "set", "--views", "none", "--out", "more", *STUB], "there are none"),
        (["add-views", "set", "--views", "steer", "--out", "more", *STUB], "ships no walks"),
        (["add-views", "set", "--views", "gauss", "--out", "set", *STUB], "set holds another set"),
        (["verify", "set", "--prove", "1%", *STUB, "--device", "tpu"], "device 'tpu' is not known"),
        (["subset", "set", "--samples", "5-3", "--out", "few.json"], "the range 5-3 is empty"),
        (["subset", "set", "--samples", "0-20", "--out", "few.json"], "has the samples 0 to 19, not 20"),
        (["subset", "set", "--samples", "all", "--out", "few.json"], "'all' is no range of samples"),
        (["subset", "set", "--samples", "1", "--out", "none/few.json"], "could not be written"),
        (["extend", "none", "--n", "30"], "none is no folder"),
        (["repair", "none"], "is missing"),
        (["diff", "set", "none"], "none is no folder"),
        (["recipe", "none"], "none is no folder"),
        (["extend", "s3://bucket/set", "--n", "30"], "is no folder"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_everything_as_it_was(folder, tmp_path, words, message):
    before = identities(tmp_path)
    assert message in error_of(*words)
    assert identities(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_wrong_argument_of_the_generator_is_a_usage_fault(folder):
    assert "not of the form KEY=VALUE" in error_of("repair", "set", "--generator-arg", "gain", status=2)
    assert "not in the range" in error_of("extend", "set", "--n", "0", status=2)


def test_a_set_from_somebody_else_that_may_not_be_written_is_left_and_said_so():
    """As a user without rights: root writes everywhere."""
    folder = Path(tempfile.mkdtemp())
    try:
        CliRunner().invoke(generate, [*SMALL, "--out", str(folder / "set")])
        damage(folder / "set")
        before = hashes(folder)
        for path in (folder, folder / "set", folder / "set/.tables"):
            path.chmod(0o555)
        for words in (["repair", "set"], ["extend", "set", "--n", "30"], ["add-views", "set", "--views", "gauss"]):
            out = ["--out", "more"] if words[0] == "add-views" else []
            status, text = as_nobody(folder, [*words, *out, *STUB, "--device", "cpu"])
            assert status == 1
            assert re.fullmatch(r"Error: .* could not be written \(Permission denied\): choose a folder .*\n", text)
        assert hashes(folder) == before
    finally:
        for path in (folder, folder / "set", folder / "set/.tables"):
            path.chmod(0o755)
        shutil.rmtree(folder)


def as_nobody(folder, words):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            result = run(*words)
            os.write(writer, result.output.encode())
            os._exit(result.exit_code)
        finally:
            os._exit(99)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_extension_says_so_and_the_same_command_continues(folder, tmp_path, number):
    shutil.copytree(folder, tmp_path / "whole")
    run("extend", "whole", "--n", "60", *STUB)
    words = [sys.executable, "-m", "genrep.shards.command", "extend", "set", "--n", "60", *STUB]
    slowly = {**os.environ, "STUB_SECONDS_A_RENDER": "0.05"}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=slowly)
    while not (folder / "shard-000003.tar").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (
        1,
        "Error: interrupted (finished shards are in set); run the same command to continue\n",
    )
    assert not [file for file in folder.rglob("*") if ".tmp-" in file.name]
    before = {name: stamp for name, stamp in identities(folder).items() if "shard-" in name}
    assert "extend command that began it, run again, continues it" in error_of("verify", "set")
    assert run("extend", "set", "--n", "60", *STUB).exit_code == 0
    assert identities(folder).items() >= before.items()
    assert hashes(folder) == hashes(tmp_path / "whole")


def test_a_full_disk_in_a_repair_leaves_the_old_files_and_the_same_command_continues(folder, original, monkeypatch):
    import errno

    from genrep.shards import atomic

    damage(folder)
    damaged = hashes(folder)
    real = os.fsync

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", no_space)
    assert "No space left on device" in error_of("repair", "set", *STUB)
    assert hashes(folder) == damaged
    monkeypatch.setattr(atomic.os, "fsync", real)
    assert run("repair", "set", *STUB).exit_code == 0
    assert hashes(folder) == hashes(original)


def test_nothing_heavy_is_loaded_before_it_is_needed():
    code = (
        "import sys, genrep.shards.command as command\n"
        "for name in ('repair', 'extend', 'add-views', 'verify', 'diff', 'subset', 'recipe'):\n"
        "    try:\n        command.main([name, '--help'])\n"
        "    except SystemExit:\n        pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'PIL', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
