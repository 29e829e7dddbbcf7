"""genrep-train as it is typed: where its samples come from, and what it tells of them."""

import json
import signal
import subprocess
import time

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from wave_sets import command, damage, metrics_of, write_set

import genrep.shards
from genrep.shards.ffcv import export_ffcv
from genrep.train.checkpoint import checkpoints, load_checkpoint
from genrep.train.command import main

SMALL = ("--batch-size", 8, "--steps", 12, "--device", "cpu", "--threads", 1)


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(folder, *arguments, out="run"):
    return CliRunner().invoke(main, list(map(str, ["--shards", folder, "--out", out, *SMALL, *arguments])))


def error_of(folder, *arguments, status=1):
    result = train(folder, *arguments)
    assert result.exit_code == status, result.output
    *_, line = result.stderr.splitlines()
    return line.removeprefix("Error: ")


def weights(run):
    return load_checkpoint(checkpoints(run)[-1])["backbone"]


def assert_equal_weights(run, other):
    ours, theirs = weights(run), weights(other)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def start(folder, *arguments, out="run"):
    return subprocess.Popen(**command("command", "--shards", folder, "--out", out, *SMALL, *arguments))


# an FFCV file


def test_a_run_on_an_ffcv_file_ends_and_equals_the_run_on_the_tars(labelled_set, tmp_path):
    export_ffcv(genrep.shards.open(labelled_set), tmp_path / "set.beton")
    process = start(labelled_set, "--loader", "ffcv", "--beton", "set.beton", "--workers", 2, "--quiet", out="ffcv")
    assert process.communicate(timeout=120) == ("", "")
    assert process.returncode == 0
    assert train(labelled_set, out="tars").exit_code == 0
    assert_equal_weights(tmp_path / "ffcv", tmp_path / "tars")
    crcs = [[line["batch_crc32"] for line in metrics_of(tmp_path / name)] for name in ("ffcv", "tars")]
    assert crcs[0] == crcs[1]


def test_a_run_may_go_on_with_the_other_loader(tmp_path):
    folder = write_set(tmp_path / "set")
    export_ffcv(genrep.shards.open(folder), tmp_path / "set.beton")  # where it is looked for
    assert train(folder, "--loader", "ffcv", "--quiet", out="run").output == ""
    assert train(folder, "--quiet", out="run").output == ""


def test_the_ffcv_file_of_another_set_is_refused_in_one_line(labelled_set, unlabelled_set, tmp_path):
    export_ffcv(genrep.shards.open(unlabelled_set), tmp_path / "x.beton")
    assert "x.beton was made from another set" in error_of(labelled_set, "--loader", "ffcv", "--beton", "x.beton")
    assert "cannot be read" in error_of(labelled_set, "--loader", "ffcv", "--beton", "absent.beton")
    assert not (tmp_path / "run").exists()


def test_a_file_without_its_loader_is_a_usage_fault(labelled_set):
    assert error_of(labelled_set, "--beton", "x.beton", status=2).startswith("--beton names the file of --loader ffcv")


# workers


def test_no_and_two_workers_train_the_same_weights(labelled_set, tmp_path):
    for workers in (0, 2):
        assert train(labelled_set, "--workers", workers, out=f"{workers}").exit_code == 0
    assert_equal_weights(tmp_path / "0", tmp_path / "2")


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_the_program_its_workers_and_all_in_one_line(labelled_set, tmp_path, workers):
    process = start(labelled_set, "--steps", 100_000, "--workers", workers, "--quiet")
    while len(metrics_of(tmp_path / "run")) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    done = len(metrics_of(tmp_path / "run"))
    assert told == f"Error: interrupted after step {done} of 100000; run the same command to continue\n"
    assert process.returncode == 1
    assert load_checkpoint(checkpoints(tmp_path / "run")[-1])["step"] == done


# damaged samples


def test_damaged_samples_are_counted_and_reported_if_they_may_be_passed_over(tmp_path):
    folder = damage(write_set(tmp_path / "set"), 3, 20)
    assert "000000003.anchor.png" in error_of(folder) or "000000020.anchor.png" in error_of(folder)
    result = train(folder, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert result.stdout == "run: trained for 12 steps, 2 damaged samples passed over\n"
    lines = [line for line in result.stderr.splitlines() if line.startswith("passed over: ")]
    assert sorted(line[line.index("member") :][:27] for line in lines) == [
        "member 000000003.anchor.png",
        "member 000000020.anchor.png",
    ]
    assert sum(line["passed_over"] for line in metrics_of(tmp_path / "run")) >= 4  # two epochs and a part of a third


# another set mixed in


def test_a_set_can_be_mixed_in_and_is_part_of_the_run(labelled_set, tmp_path):
    write_set(tmp_path / "real", num_samples=12, num_views=0)
    result = train(labelled_set, "--mix", "real:0.5", "--method", "simclr")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["num_mixed"] == 4
    assert "holds another run, with num_mixed 4 (asked: 2)" in error_of(
        labelled_set, "--mix", "real:0.25", "--method", "simclr"
    )


@pytest.mark.parametrize(
    ("mix", "arguments", "message"),
    [
        ("small:0.5", [], "hold images of 28 x 28 x 1 and 24 x 28 x 1: make both sets of one size"),
        ("real:0.01", [], "0 of 8 samples of a batch would be mixed in: choose a ratio between"),
        ("few:0.5", [], "few has 3 samples, fewer than the 4 of a batch: mix in less"),
        ("real:0.5", ["--views", "latent"], "real has no latent views, which --views latent needs"),
        ("real:0.5", ["--method", "inverter"], "shares no latents with the other, which inverter needs"),
        ("real:0.5", ["--method", "supcon"], "real 0 and samples without: use simclr"),
        ("absent:0.5", [], "absent"),
    ],
)
def test_a_set_that_cannot_be_mixed_in_is_refused_in_one_line(labelled_set, tmp_path, mix, arguments, message):
    write_set(tmp_path / "real", num_samples=12, num_views=0, labelled=False)
    write_set(tmp_path / "few", num_samples=3, num_views=0)
    write_set(tmp_path / "small", shape=(24, 28, 1))
    given = arguments if "--method" in arguments else ["--method", "simclr", *arguments]
    assert message in error_of(labelled_set, "--mix", mix, *given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mix", ["real", "real:", "real:1", "real:two", ":0.5"])
def test_a_mix_that_is_no_folder_and_share_is_a_usage_fault(labelled_set, mix):
    assert "--mix" in error_of(labelled_set, "--mix", mix, status=2)


# what is told


def test_signals_stand_in_the_metrics_every_so_many_steps(labelled_set, tmp_path):
    assert train(labelled_set, "--watch-every", 5).exit_code == 0
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines if "rankme" in line] == [1, 5, 10]
    assert {"rankme", "alignment", "uniformity"} <= lines[4].keys()


def test_watching_changes_no_weights(labelled_set, tmp_path):
    for every in (1, 100):
        assert train(labelled_set, "--watch-every", every, out=f"{every}").exit_code == 0
    assert_equal_weights(tmp_path / "1", tmp_path / "100")


def test_tensorboard_is_given_metrics_signals_and_pictures(labelled_set, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(labelled_set, "--tensorboard", "--watch-every", 4).exit_code == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"loss", "lr", "images_per_s", "data_wait", "rankme", "uniformity"} <= set(events.Tags()["scalars"])
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([line["loss"] for line in metrics_of(tmp_path / "run")])
    assert [event.step for event in events.Images("images")] == [1, 4, 8, 12]


def test_without_tensorboard_its_option_says_what_to_install(labelled_set, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert "pip install 'genrep[tensorboard]'" in error_of(labelled_set, "--tensorboard")
    assert not (tmp_path / "run").exists()


def test_show_pairs_draws_the_first_batch_and_leaves_no_run(labelled_set, tmp_path):
    result = train(labelled_set, "--show-pairs", "pairs.png")
    assert result.exit_code == 0, result.output
    picture = Image.open(tmp_path / "pairs.png")
    assert picture.width > 3 * 112  # stored anchor and two images
    assert picture.height > 8 * 112  # the whole batch
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.png"]
