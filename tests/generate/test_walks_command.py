import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from genrep.generate.walks import load_walks, save_walks
from genrep.generate.walks_command import main

BLOB = ("--generator", "blob_generators:blob")
TRAIN = ("train", *BLOB, "--edits", "shift", "--full", "shift_x=1", "--steps", "4", "--batch-size", "4")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(main, arguments)


def test_train_then_card_leaves_walks_a_curve_and_a_card(tmp_path):
    trained = run(*TRAIN, "--out", "run")
    assert trained.exit_code == 0, trained.output
    assert trained.output == "2 walks in run/walks.safetensors: shift_x, shift_y\n"
    walks = load_walks("run/walks.safetensors")
    assert walks.full == pytest.approx({"shift_x": 1, "shift_y": 16 / 7})
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4

    measured = run(
        *("card", *BLOB, "--walks", "run/walks.safetensors", "--classifier", "blob_generators:left_or_right"),
        *("--n", "4", "--out", "card", "--device", "cpu"),
    )
    assert measured.exit_code == 0, measured.output
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert card["command"].split()[0] == "genrep-walks"
    assert [direction["name"] for direction in card["directions"]] == ["shift_x", "shift_y"]
    assert (tmp_path / "card" / "card.md").read_text() == measured.output[:-1]
    assert Image.open(tmp_path / "card" / "filmstrip.png").width > 9 * 64


def test_cheap_directions_are_written_to_a_file():
    for kind, further in (("sefa", ["--device", "cpu"]), ("pca", ["--device", "cpu", "--n", "40"]), ("random", [])):
        result = run(
            *(kind, "--generator", "stub_generators:conditional", "--count", "2", "--length", "3"),
            *("--out", f"{kind}.safetensors", *further),
        )
        assert result.exit_code == 0, result.output
        assert load_walks(f"{kind}.safetensors").names == (f"{kind}_1", f"{kind}_2")


def test_an_imported_checkpoint_is_tied_to_the_generator_named():
    torch.save({"walk_zoom": torch.ones(1, 4), "walk_rrc": torch.nn.Linear(4, 4)}, "w.pth")
    result = run("import", "w.pth", "--generator", "stub_generators:conditional", "--out", "w.safetensors")
    assert result.exit_code == 0, result.output
    assert "left out walk_rrc: a network, not a direction" in result.output
    assert load_walks("w.safetensors").generator
    result = run("import", "w.pth", "--generator", "blob_generators:blob", "--out", "other.safetensors")
    assert (result.exit_code, "the walks have 4 coordinates" in result.output) == (1, True)


def test_quiet_prints_nothing():
    assert run(*TRAIN, "--out", "run", "--quiet").output == ""
    assert run("random", *BLOB, "--count", "1", "--out", "r.safetensors", "--quiet").output == ""


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["train", *BLOB, "--edits", "tilt"], 1, "'tilt' is no edit; known: brightness"),
        (["train", *BLOB, "--edits", "hue", "--steps", "1", "--device", "cpu"], 1, "edit hue needs 3 channels"),
        (["train", *BLOB, "--edits", "zoom", "--full", "shift_x=1"], 2, "'shift_x' is not among the edits zoom"),
        (["train", *BLOB, "--full", "zoom"], 2, "'zoom' is not of the form EDIT=STRENGTH"),
        (["train", *BLOB, "--full", "zoom=big"], 2, "'big' is no number"),
        (["train", *BLOB, "--full", "zoom=-1"], 2, "must be positive"),
        (["train", *BLOB, "--steps", "0"], 2, "0 is not in the range"),
        (["train", "--generator", "nothing"], 1, "there is no generator 'nothing'"),
        (["train", *BLOB, "--latent-space", "w"], 1, "can be steered in z, not in 'w'"),
        (["card", *BLOB, "--out", "card"], 1, "ships no walks: name a file with --walks"),
        (["card", *BLOB, "--walks", "absent", "--out", "card"], 1, "absent: there is no such file of walks"),
        (["import", "absent.pth", "--out", "w.safetensors"], 1, "absent.pth: there is no such file"),
        (["import", "absent.pth", "--weights", "x", "--out", "w.safetensors"], 2, "belong to a --generator"),
        (["random", *BLOB, "--count", "7", "--out", "r.safetensors"], 1, "7 directions cannot be orthogonal"),
        (["random", *BLOB], 2, "Missing option '--out'"),
    ],
)
def test_a_user_s_mistake_is_told_in_one_line_and_leaves_nothing(tmp_path, arguments, status, complaint):
    result = run(*arguments)
    assert (result.exit_code, complaint in result.output) == (status, True), result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", *BLOB, "--steps", "1", "--out", "file/run"],
        ["random", *BLOB, "--count", "2", "--out", "file/random.safetensors"],
        ["card", *BLOB, "--walks", "walks.safetensors", "--n", "2", "--out", "file/card"],
    ],
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path, arguments):
    assert run("random", *BLOB, "--count", "2", "--out", "walks.safetensors").exit_code == 0
    (tmp_path / "file").write_text("in the way")
    result = run(*arguments)
    assert (result.exit_code, "could not be written" in result.output) == (1, True), result.output
    assert isinstance(result.exception, SystemExit)


def test_walks_of_another_generator_have_no_card(walks):
    save_walks(walks, "walks.safetensors")
    result = run("card", *BLOB, "--walks", "walks.safetensors", "--out", "card")
    assert result.exit_code == 1
    assert "the walks have 4 coordinates, a latent of blob_generators:blob has 6" in result.output


def test_an_interrupted_training_goes_on_with_the_same_command(tmp_path):
    command = [sys.executable, "-m", "genrep.generate.walks_command", *TRAIN, "--steps", "100000", "--out", "run"]
    process = subprocess.Popen([*command, "--checkpoint-every", "1"], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.endswith("Error: interrupted; run the same command to continue\n")
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "walks.safetensors").exists()

    steps = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "steps": steps + 2}))
    assert run(*TRAIN, "--steps", str(steps + 2), "--out", "run").exit_code == 0
    assert np.isfinite(load_walks("run/walks.safetensors").directions).all()


def test_help_starts_without_torch():
    script = "import sys, genrep.generate.walks_command; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", [None, *main.commands])
def test_every_help_has_an_example_to_paste(command):
    text = run(*filter(None, [command]), "--help").output
    assert "Example" in text
    assert f"genrep-walks {command or 'train'}" in text
