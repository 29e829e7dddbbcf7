import json
import math
import os
import signal
import subprocess
import time
from threading import Thread

import pytest
import torch
from click.testing import CliRunner
from wave_sets import command, metrics_of

import genrep.shards
from genrep.shards.errors import DataError
from genrep.train.checkpoint import checkpoints, load_checkpoint
from genrep.train.command import main
from genrep.train.config import METHODS, resolve
from genrep.train.loop import train


def run_of(folder, run, *, every=100, should_stop=lambda: False, **settings):
    shards = genrep.shards.open(folder)
    config = resolve(shards, **{"batch_size": 8, "steps": 12} | settings)
    return train(shards, config, run, checkpoint_every=every, should_stop=should_stop)


def last_states(run):
    """Every tensor of the last checkpoint, by its dotted place."""

    def walk(value, place):
        if isinstance(value, torch.Tensor):
            yield place, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{place}.{key}")

    return dict(walk(load_checkpoint(checkpoints(run)[-1]), ""))


def assert_equal_to_the_bit(run, other):
    ours, theirs = last_states(run), last_states(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert [(line["step"], line["loss"]) for line in metrics_of(run)] == [
        (line["step"], line["loss"]) for line in metrics_of(other)
    ]


def test_training_lowers_the_loss_below_that_of_telling_nothing_apart(unlabelled_set, tmp_path):
    run_of(unlabelled_set, tmp_path / "run", views="pixel", steps=60)
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert sum(losses[-10:]) / 10 < 0.85 * math.log(2 * 8 - 1)


def test_the_loss_scale_is_a_factor_on_the_loss(unlabelled_set, tmp_path):
    for scale in (1, 2):
        run_of(unlabelled_set, tmp_path / f"{scale}", loss_scale=scale, steps=1)
    (plain,), (doubled,) = metrics_of(tmp_path / "1"), metrics_of(tmp_path / "2")
    assert doubled["loss"] == pytest.approx(2 * plain["loss"])


def test_metrics_hold_one_object_a_step(labelled_set, tmp_path):
    run_of(labelled_set, tmp_path / "run")
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines:
        assert line["images_per_s"] > 0
        assert 0 <= line["data_wait"] <= 1
    assert max(line["lr"] for line in lines) == pytest.approx(0.002)


def test_the_run_says_what_it_was_made_from(labelled_set, tmp_path):
    run_of(labelled_set, tmp_path / "run", seed=5)
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["config"] == json.loads(
        json.dumps(resolve(genrep.shards.open(labelled_set), batch_size=8, steps=12, seed=5).to_json())
    )


@pytest.mark.parametrize("views", ["both", "latent", "pixel"])
def test_a_run_stopped_in_mid_epoch_and_continued_equals_one_never_stopped(labelled_set, tmp_path, views):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_of(labelled_set, whole, views=views)
    answers = iter([False] * 6 + [True])
    assert run_of(labelled_set, stopped, views=views, should_stop=lambda: next(answers)) == 7
    assert run_of(labelled_set, stopped, views=views) == 12
    assert_equal_to_the_bit(stopped, whole)


@pytest.mark.parametrize(
    "settings",
    [
        *({"method": method} for method in METHODS),
        {"method": "multipos", "latent_tau": 0.5},
        {"dtype": "float16"},
        {"optimiser": "lars"},
        {"chunk": 3},
    ],
    ids=str,
)
def test_every_method_and_every_way_to_train_continues_to_the_bit(labelled_set, tmp_path, settings):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"steps": 7} | settings
    run_of(labelled_set, whole, **settings)
    answers = iter([False] * 3 + [True])
    assert run_of(labelled_set, stopped, should_stop=lambda: next(answers), **settings) == 4
    assert run_of(labelled_set, stopped, **settings) == 7
    assert_equal_to_the_bit(stopped, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_process_killed_after_a_checkpoint_and_run_again_equals_one_never_killed(labelled_set, tmp_path, workers):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    threads = torch.get_num_threads()  # sums depend on their number

    def start():
        sizes = ("--batch-size", 32, "--steps", 60, "--checkpoint-every", 10)
        rest = ("--device", "cpu", "--threads", threads, "--workers", workers, "--quiet")
        started = command("command", "--shards", labelled_set, "--out", killed, *sizes, *rest)
        return subprocess.Popen(**started, start_new_session=True)

    process = start()
    while len(metrics_of(killed)) < 25:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    reached = load_checkpoint(checkpoints(killed)[-1])["step"]
    before = metrics_of(killed)[:reached]
    assert 20 <= reached < 60

    again = start()
    assert again.communicate() == ("", "")
    assert again.returncode == 0
    assert metrics_of(killed)[:reached] == before  # times included: it went on from its checkpoint, not from 0
    run_of(labelled_set, whole, batch_size=32, steps=60)
    assert_equal_to_the_bit(killed, whole)
    assert checkpoints(killed)[-1].read_bytes() == checkpoints(whole)[-1].read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_a_checkpoint_and_one_line(labelled_set, tmp_path, number):
    run = tmp_path / "run"

    def send():
        while len(metrics_of(run)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = Thread(target=send, daemon=True)
    sender.start()
    arguments = ["--shards", str(labelled_set), "--out", str(run), "--batch-size", "8", "--steps", "100000", "--quiet"]
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu", "--threads", "1"])
    done = len(metrics_of(run))
    assert result.exit_code == 1
    assert result.output == f"Error: interrupted after step {done} of 100000; run the same command to continue\n"
    assert load_checkpoint(checkpoints(run)[-1])["step"] == done


def test_the_last_three_checkpoints_stay(labelled_set, tmp_path):
    run_of(labelled_set, tmp_path / "run", every=2)
    names = [path.name for path in checkpoints(tmp_path / "run")]
    assert names == ["step-00000008.pt", "step-00000010.pt", "step-00000012.pt"]


def test_a_finished_run_is_left_as_it_is(labelled_set, tmp_path):
    run_of(labelled_set, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert run_of(labelled_set, tmp_path / "run") == 12
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_another_config_in_the_folder_is_refused_naming_the_fields(labelled_set, tmp_path):
    run_of(labelled_set, tmp_path / "run", steps=1)
    with pytest.raises(DataError, match=r"steps 1 \(asked: 2\), optimiser.lr 0.002 \(asked: 0.1\): ask for the same"):
        run_of(labelled_set, tmp_path / "run", steps=2, lr=0.1)


def test_another_set_in_the_folder_is_refused(labelled_set, unlabelled_set, anchors_only_set, tmp_path):
    run_of(anchors_only_set, tmp_path / "run", steps=1)
    with pytest.raises(DataError, match=r"holds another run, with recipe_sha256 "):
        run_of(labelled_set, tmp_path / "run", steps=1, views="pixel")


def test_a_folder_of_something_else_is_refused(labelled_set, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"holds other things and no config.json: choose a new --out"):
        run_of(labelled_set, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_cannot_train_in_one_folder(labelled_set, tmp_path):
    def a_second_one():
        with pytest.raises(DataError, match="is being trained by another process"):
            run_of(labelled_set, tmp_path / "run")
        return True

    assert run_of(labelled_set, tmp_path / "run", should_stop=a_second_one) == 1


def test_a_loss_that_is_no_number_ends_the_run_by_name(labelled_set, tmp_path):
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step \d+ of .* a smaller --lr than 1e\+30"):
        run_of(labelled_set, tmp_path / "run", lr=1e30)


def test_the_seed_decides_the_first_weights_and_global_randomness_stays_as_it_was(labelled_set, tmp_path):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_of(labelled_set, tmp_path / name, seed=seed, steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    first = {name: metrics_of(tmp_path / name)[0]["loss"] for name in "abc"}
    assert first["a"] == first["b"] != first["c"]


def test_half_precision_trains_too(labelled_set, tmp_path):
    run_of(labelled_set, tmp_path / "full", steps=1)
    run_of(labelled_set, tmp_path / "half", steps=1, dtype="bfloat16")
    (full,), (half,) = metrics_of(tmp_path / "full"), metrics_of(tmp_path / "half")
    assert half["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert half["loss"] != full["loss"]
    states = last_states(tmp_path / "half")
    assert {value.dtype for name, value in states.items() if name.endswith("weight")} == {torch.float32}
