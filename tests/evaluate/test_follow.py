"""A run is probed while it trains: which checkpoints, on which images, and when it ends."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from genrep.evaluate.command import main
from genrep.evaluate.data import open_data
from genrep.evaluate.evaluation import evaluate
from genrep.evaluate.follow import follow
from genrep.evaluate.knn import KnnProbe
from genrep.train.checkpoint import checkpoints, load_backbone, load_checkpoint, save_checkpoint
from genrep.train.config import TrainConfig


def add_checkpoint(run, step, *, steps=6):
    """Another checkpoint of a run, its weights those of the first times a number of their own."""
    content = load_checkpoint(checkpoints(run)[0])
    config = TrainConfig.from_json({**content["config"], "steps": steps})
    (run / "config.json").write_text(json.dumps({"config": config.to_json()}))
    scaled = {name: value * (1 + step / 10) for name, value in content["backbone"].items()}
    save_checkpoint(run, step, config, {"backbone": scaled, "projection_head": {}, "optimiser": {}})


@pytest.fixture
def data(photographs):
    return open_data(f"imagefolder:{photographs}")


def test_each_checkpoint_is_measured_as_it_comes_until_the_last_step(run, data, tmp_path):
    to_come = [4, 6]
    add_checkpoint(run, 3)
    rests = []

    def rest():
        rests.append(len(rests))
        add_checkpoint(run, to_come.pop(0))

    lines = list(follow(run, data, KnnProbe(), tmp_path / "lines.jsonl", rest=rest))
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert len(rests) == 2
    assert [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()] == [
        {**line, "interval": list(line["interval"])} for line in lines
    ]


def test_the_number_is_that_of_the_probe_on_held_out_images(run, data, tmp_path):
    from dataclasses import replace

    (run / "config.json").write_text(json.dumps({"config": load_backbone(run).config}))
    (line,) = follow(run, data, KnnProbe(), tmp_path / "lines.jsonl")
    (result,) = evaluate(run, replace(data, test=data.held_out), [KnnProbe()])
    assert (line["top1"], tuple(line["interval"])) == (result.score.top1, result.score.interval)
    assert line["unit"] == f"fraction of {len(data.held_out.labels)} held-out training images"
    assert line["checkpoint"] == load_backbone(run).sha256


def test_test_images_are_never_read(run, data, tmp_path):
    from dataclasses import replace

    def refuse(rows):
        raise AssertionError("a test image was read")

    (run / "config.json").write_text(json.dumps({"config": load_backbone(run).config}))
    guarded = replace(data, test=replace(data.test, read=refuse))
    assert len(list(follow(run, guarded, KnnProbe(3), tmp_path / "lines.jsonl"))) == 1


def test_what_was_measured_is_not_measured_again(run, data, tmp_path):
    add_checkpoint(run, 6)
    out = tmp_path / "lines.jsonl"
    assert len(list(follow(run, data, KnnProbe(), out))) == 2
    assert list(follow(run, data, KnnProbe(), out)) == []
    assert len(out.read_text().splitlines()) == 2


def test_a_checkpoint_removed_before_its_turn_is_left_out(run, data, tmp_path):
    add_checkpoint(run, 3)
    add_checkpoint(run, 6)
    lines = []
    for line in follow(run, data, KnnProbe(), tmp_path / "lines.jsonl"):
        lines.append(line["step"])
        checkpoints(run)[1].unlink(missing_ok=True) if line["step"] == 2 else None
    assert lines == [2, 6]


def test_the_command_waits_for_a_run_tells_each_step_and_ends_with_it(run, photographs, tmp_path):
    add_checkpoint(run, 3)
    later = tmp_path / "later"
    words = ["knn", "--follow", later, "--data", f"imagefolder:{photographs}", "--threads", 1, "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "genrep.evaluate.command", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == f"{later} has no checkpoint yet: waiting for it\n"
    run.rename(later)
    assert process.stdout.readline().startswith("step 2: top-1 ")
    add_checkpoint(later, 6)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["step 3", "step 6"]
    file = later / "evaluation" / "follow-knn-imagefolder-photographs.jsonl"
    assert out.splitlines()[-1] == f"{later} is finished; written to {file}"
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 3, 6]


def test_ctrl_c_ends_it_in_one_line(run, photographs):
    add_checkpoint(run, 3)
    words = ["knn", "--follow", run, "--data", f"imagefolder:{photographs}", "--threads", 1, "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "genrep.evaluate.command", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    while not list(run.glob("evaluation/*.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "Error: interrupted; run the same command to continue\n"
    assert process.returncode == 1


@pytest.mark.parametrize("words", [[], ["--checkpoint", "a", "--follow", "b"], ["--follow", "b", "--cache", "c"]])
def test_what_contradicts_itself_is_a_usage_fault(words):
    outcome = CliRunner().invoke(main, ["knn", *words])
    assert outcome.exit_code == 2
    assert "--follow" in outcome.stderr


def test_weights_that_are_no_numbers_are_one_line(save_run, photographs, tmp_path):
    def spoil(weights):
        weights["stem.0.weight"][:] = np.nan

    run = save_run(tmp_path / "spoilt", change=spoil)
    assert torch.isnan(load_checkpoint(checkpoints(run)[0])["backbone"]["stem.0.weight"]).any()
    words = ["knn", "--follow", run, "--data", f"imagefolder:{photographs}", "--threads", 1, "--quiet"]
    outcome = CliRunner().invoke(main, list(map(str, words)))
    assert outcome.exit_code == 1
    assert "are not finite" in outcome.stderr
