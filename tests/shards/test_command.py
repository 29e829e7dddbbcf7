"""genrep-shards as it is typed."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import genrep.shards
from genrep.shards.command import main

PROGRAM = [sys.executable, "-m", "genrep.shards.command"]


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def error_of(*words, status=1):
    result = run(*words)
    assert result.exit_code == status
    last = result.stderr.rstrip("\n").splitlines()[-1]
    assert last.startswith("Error: ")
    if status == 1:
        assert result.stderr.count("\n") == 1
    return last.removeprefix("Error: ")


@pytest.mark.parametrize("command", ["info", "verify", "preview", "import"])
def test_every_command_explains_itself_with_an_example(command):
    text = run(command, "--help").output
    assert f"\n    genrep-shards {command} " in text
    assert "--quiet" in text


def test_info_tells_people_and_programs(tiny_set):
    assert "10 generated, 20 images" in run("info", tiny_set).output
    told = json.loads(run("info", tiny_set, "--json").output)
    assert told["totals"]["samples"] == 10
    assert run("info", tiny_set, "--quiet").output == ""


def test_verify_says_whole_or_names_what_is_not(tiny_set):
    assert run("verify", tiny_set).output == f"{tiny_set} is whole: 10 samples checked\n"
    assert run("verify", tiny_set, "--deep").output == f"{tiny_set} is whole: 10 samples and every member checked\n"
    assert run("verify", tiny_set, "--quiet").output == ""
    tar = tiny_set / "shard-000001.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"000000005.anchor.png") + 512 + 40] ^= 1
    tar.write_bytes(content)
    result = run("verify", tiny_set)
    assert result.exit_code == 1
    assert re.search(r"^shard-000001\.tar, sample 000000005, anchor\.png: ", result.stdout, flags=re.MULTILINE)
    assert result.stderr.startswith(f"Error: {tiny_set} is damaged")


def test_verify_of_an_unfinished_set_says_how_far_it_is(tiny_set):
    (tiny_set / "manifest.json").unlink()
    (tiny_set / "shard-000002.tar").unlink()
    assert "is not finished: 2 of 3 shards are there" in error_of("verify", tiny_set)


def test_preview_draws_a_picture_and_says_where(tiny_set, tmp_path):
    out = tmp_path / "sheet.png"
    assert (
        run("preview", tiny_set, "--out", out, "--rows", 3).output == f"3 of 10 samples of {tiny_set} drawn in {out}\n"
    )
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > 3 * 112
    assert run("preview", tiny_set, "--out", out, "--quiet").output == ""
    assert "genrep-generate --views gauss,steer" in error_of(
        "preview", tiny_set, "--panels", "--out", tmp_path / "no.png"
    )
    assert not (tmp_path / "no.png").exists()
    assert "could not be written" in error_of("preview", tiny_set, "--out", tmp_path / "none" / "sheet.png")


def test_import_makes_a_set_that_the_other_commands_take(tmp_path):
    for number in range(3):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 50 * number, np.uint8)).save(path)
    out = tmp_path / "set"
    words = ("import", tmp_path / "photos", "--out", out, "--shard-size", 2, "--resize", 4)
    assert run(*words).output == f"3 images in 2 shards in {out}\n"
    assert [sample.meta["file"] for sample in genrep.shards.read(out)] == ["a/2.png", "b/1.png", "a/0.png"]
    assert run(*words, "--quiet").output == ""  # there is nothing left to do
    assert "3 imported" in run("info", out).output
    assert "is whole" in run("verify", out, "--deep").output
    assert "image.format is" in error_of(*words, "--format", "jpg")


@pytest.mark.parametrize("command", ["info", "verify", "preview"])
def test_what_is_no_set_is_one_line_and_status_one(command, tmp_path):
    assert f"{tmp_path / 'none'} is no folder" in error_of(command, tmp_path / "none")
    assert f"{tmp_path / 'recipe.json'} is missing" in error_of(command, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_image_folder_that_cannot_be_imported_is_one_line_and_leaves_nothing(tmp_path):
    out = tmp_path / "set"
    assert "No such file or directory" in error_of("import", tmp_path / "none", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "has no sub-folders" in error_of("import", tmp_path / "empty", "--out", out)
    assert not out.exists()


def test_a_usage_fault_is_status_two(tmp_path):
    error_of("import", "fashion-mnist", status=2)  # no --out
    error_of("import", "fashion-mnist", "--out", tmp_path / "set", "--n", 0, status=2)
    error_of("preview", tmp_path, "--rows", 0, status=2)
    error_of("nothing", status=2)


def test_a_terminated_import_is_continued_by_the_same_command(tmp_path):
    folder = tmp_path / "photos" / "noise"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(256, size=(150, 16, 16), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    words = [*PROGRAM, "import", tmp_path / "photos", "--shard-size", "1", "--out", tmp_path / "set"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not any((tmp_path / "set").glob("*.tar")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == (
        f"Error: interrupted (finished shards are in {tmp_path / 'set'}); run the same command to continue\n"
    )
    assert not list((tmp_path / "set").rglob("*.tmp*"))
    finished = {tar: tar.stat().st_mtime_ns for tar in (tmp_path / "set").glob("*.tar")}
    assert 0 < len(finished) < 150
    subprocess.run(words, check=True, capture_output=True)
    assert {tar: tar.stat().st_mtime_ns for tar in finished} == finished
    images = {sample.meta["file"]: sample.images[0, ..., 0] for sample in genrep.shards.read(tmp_path / "set")}
    assert [images[f"noise/{number:03d}.png"].tolist() for number in range(150)] == noise.tolist()


def test_nothing_heavy_is_loaded_before_it_is_needed(tiny_set):
    code = (
        "import sys, genrep.shards.command as command\n"
        "light = set(sys.modules)\n"
        f"command.main(['info', {str(tiny_set)!r}, '--quiet'], standalone_mode=False)\n"
        "assert not {'numpy', 'pyarrow', 'PIL', 'tqdm'} & light, light\n"
        "assert not {'torch', 'PIL', 'numba', 'matplotlib', 'webdataset', 'tqdm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny_set)
