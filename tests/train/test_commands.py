import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from wave_sets import metrics_of, write_set

from genrep.train import command, export_command
from genrep.train.checkpoint import checkpoints, load_backbone, load_checkpoint
from genrep.train.config import METHODS


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    """Runs are named in the current folder."""
    monkeypatch.chdir(tmp_path)


def train(*arguments):
    return CliRunner().invoke(command.main, ["--device", "cpu", "--threads", "1", *map(str, arguments)])


def export(*arguments):
    return CliRunner().invoke(export_command.main, list(map(str, arguments)))


def assert_fails_in_one_line(result, message, *, status=1):
    assert result.exit_code == status, result.output
    assert not isinstance(result.exception, DataErrors)
    *_, line = result.output.splitlines()
    assert re.fullmatch(f"Error: {message}", line), line
    assert "Traceback" not in result.output


DataErrors = (ValueError, KeyError, OSError)


def test_a_run_is_named_after_set_method_and_seed(unlabelled_set, tmp_path):
    result = train("--shards", unlabelled_set, "--batch-size", 8, "--steps", 2, "--seed", 3)
    run = tmp_path / "runs" / "unlabelled-simclr-seed3"
    assert result.exit_code == 0, result.output
    assert result.stdout == "runs/unlabelled-simclr-seed3: trained for 2 steps\n"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.json", "metrics.jsonl"]
    record = json.loads((run / "config.json").read_text())
    assert record["shards"] == str(unlabelled_set)
    assert record["environment"]["torch"] == torch.__version__
    assert len(metrics_of(run)) == 2


def test_the_same_command_continues_and_resume_says_when_there_is_nothing(labelled_set, tmp_path):
    arguments = ("--shards", labelled_set, "--out", "run", "--batch-size", 8, "--steps", 3, "--resume")
    assert "nothing to resume in run: starting at step 0" in train(*arguments).stderr
    assert "nothing to resume" not in train(*arguments).stderr
    assert load_checkpoint(checkpoints(tmp_path / "run")[-1])["step"] == 3


def test_quiet_says_nothing(labelled_set):
    result = train("--shards", labelled_set, "--batch-size", 8, "--steps", 1, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_show_config_prints_the_settings_and_leaves_no_run(labelled_set, tmp_path):
    result = train("--shards", labelled_set, "--batch-size", 8, "--epochs", 4, "--lr", 0.5, "--show-config")
    config = json.loads(result.stdout)
    assert (config["steps"], config["optimiser"]["lr"], config["method"]) == (20, 0.5, "supcon")
    assert list(tmp_path.iterdir()) == []


def test_grey_images_skip_colour_augmentation_and_it_is_said_once(tmp_path):
    folder = write_set(tmp_path / "grey", shape=(66, 66, 1), num_samples=4)
    result = train("--shards", folder, "--backbone", "resnet-tiny", "--batch-size", 4, "--steps", 2)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("one-channel images: saturation, hue and grey are skipped") == 1


def test_colour_sets_train_too(tmp_path):
    folder = write_set(tmp_path / "colour", shape=(24, 32, 3), num_samples=8)
    result = train("--shards", folder, "--batch-size", 8, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert "skipped" not in result.stderr


def test_steps_and_epochs_together_are_a_usage_fault(labelled_set):
    result = train("--shards", labelled_set, "--steps", 1, "--epochs", 1)
    assert_fails_in_one_line(result, "--steps and --epochs were both given.*", status=2)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_by_its_name_and_gives_a_backbone(labelled_set, method):
    result = train("--shards", labelled_set, "--method", method, "--batch-size", 8, "--steps", 2, "--out", "run")
    assert result.exit_code == 0, result.output
    assert load_backbone("run").module.feature_dim == 128
    assert [line["step"] for line in metrics_of(Path("run"))] == [1, 2]


def test_a_preset_is_shown_by_its_name(labelled_set):
    result = train("--shards", labelled_set, "--preset", "paper-imagenet", "--batch-size", 8, "--show-config")
    config = json.loads(result.stdout)
    assert (config["backbone"], config["loss_scale"], config["steps"]) == ("resnet50", 1.4286, 100)


def test_options_of_views_and_positives_reach_the_config(labelled_set):
    arguments = ("--method", "multipos", "--num-views", "all", "--positives", "latent:0.5", "--chunk", 4)
    config = json.loads(train("--shards", labelled_set, "--batch-size", 8, *arguments, "--show-config").stdout)
    assert (config["num_views"], config["latent_tau"], config["chunk"]) == (2, 0.5, 4)


def test_as_many_checkpoints_stay_as_are_asked_for(labelled_set):
    arguments = ("--batch-size", 8, "--steps", 5, "--checkpoint-every", 1, "--keep", 2, "--out", "run")
    assert train("--shards", labelled_set, *arguments).exit_code == 0
    assert [path.name for path in checkpoints(Path("run"))] == ["step-00000004.pt", "step-00000005.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--positives", "near"], ".*'near' is neither uniform nor latent:TAU, such as latent:0.5"),
        (["--positives", "latent:0"], ".*0.0 is not in the range x>0."),
        (["--positives", "latent:"], ".*'' is not a valid float range."),
        (["--num-views", "0"], ".*0 is not in the range x>=1."),
        (["--num-views", "some"], ".*'some' is not a valid integer range."),
    ],
)
def test_views_and_positives_that_cannot_be_meant_are_usage_faults(labelled_set, arguments, message):
    assert_fails_in_one_line(train("--shards", labelled_set, *arguments), message, status=2)


def test_help_names_the_risk_of_batch_norm_on_each_rank_and_the_rule_of_the_rate():
    text = " ".join(CliRunner().invoke(command.main, ["--help"]).output.split())
    assert "each rank normalises its own share" in text
    assert "a shortcut past the loss" in text
    assert "linear multiplies the learning rate, given or default, by batch size / 256" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", 8, "--sync-bn"], "--sync-bn needs GPUs, torch's .* has no CPU form: leave it out"),
        (["--batch-size", 8, "--num-views", 3], "the set has 2 views of a sample, not 3: use --num-views 2 or less"),
        (["--batch-size", 41], "a batch of 41 is larger than the 40 samples: use --batch-size 40 or less"),
        (["--batch-size", 8, "--method", "supcon"], ".*without a label, which supcon needs: use --method simclr"),
        (["--batch-size", 8, "--limit", 99], "the set has 40 samples, not 99: use --limit 40 or less"),
        (["--batch-size", 8, "--backbone", "resnet7"], "unknown backbone 'resnet7': use one of resnet-tiny, .*"),
        (["--batch-size", 8, "--device", "abacus"], "device 'abacus' cannot be used .*: use --device cpu.*"),
    ],
)
def test_wrong_settings_give_one_line_and_leave_nothing(unlabelled_set, tmp_path, arguments, message):
    assert_fails_in_one_line(train("--shards", unlabelled_set, *arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_wrong_folders_give_one_line_and_leave_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    assert_fails_in_one_line(train("--shards", "absent"), r"absent.*")
    assert_fails_in_one_line(train("--shards", "empty"), r"empty.*recipe\.json.*")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty"]


def test_a_truncated_tar_gives_one_line_and_leaves_no_run(tmp_path):
    folder = write_set(tmp_path / "set", num_samples=16)
    tar = folder / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-5000])
    assert_fails_in_one_line(train("--shards", folder, "--batch-size", 8), r".*shard-000000\.tar is truncated.*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_damaged_image_gives_one_line_and_leaves_no_run(tmp_path):
    folder = write_set(tmp_path / "set", num_samples=8)
    tar = folder / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"IDOT"))
    assert_fails_in_one_line(train("--shards", folder, "--batch-size", 8), r".*member 0000.*verify.*lists all damage")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_another_backbone_in_the_folder_of_a_run_is_refused_by_name(labelled_set):
    arguments = ("--shards", labelled_set, "--out", "run", "--batch-size", 8, "--steps", 1)
    assert train(*arguments).exit_code == 0
    assert_fails_in_one_line(
        train(*arguments, "--backbone", "resnet18"),
        r'run holds another run, with backbone "resnet-tiny" \(asked: "resnet18"\): ask for the same .*',
    )


def test_a_damaged_checkpoint_gives_one_line(labelled_set, tmp_path):
    arguments = ("--shards", labelled_set, "--out", "run", "--batch-size", 8, "--steps", 1)
    assert train(*arguments).exit_code == 0
    (path,) = checkpoints(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:3000])
    assert_fails_in_one_line(train(*arguments), r"run/checkpoints/step-00000001.pt cannot be read as a checkpoint.*")


def test_an_exported_resnet_loads_strictly_in_torchvision_and_gives_the_same_features(tmp_path):
    import torchvision

    folder = write_set(tmp_path / "set", shape=(32, 32, 3), num_samples=8)
    result = train("--shards", folder, "--out", "run", "--backbone", "resnet18", "--batch-size", 4, "--steps", 1)
    assert result.exit_code == 0, result.output
    result = export("run", "--format", "torchvision", "--out", "resnet18.pth")
    assert (result.exit_code, result.output) == (0, "resnet18.pth: resnet18 of run for torchvision\n")

    model = torchvision.models.resnet18().eval()
    model.load_state_dict(torch.load("resnet18.pth", weights_only=True), strict=True)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not model(images).any()  # the classifier was never trained
    model.fc = torch.nn.Identity()
    assert torch.equal(model(images), load_backbone("run").module(images))


def test_the_tiny_backbone_cannot_be_exported_to_torchvision(labelled_set, tmp_path):
    assert train("--shards", labelled_set, "--out", "run", "--batch-size", 8, "--steps", 1).exit_code == 0
    assert_fails_in_one_line(
        export("run", "--out", "tiny.pth"), "torchvision has no resnet-tiny: train with --backbone resnet18 .*"
    )
    assert not (tmp_path / "tiny.pth").exists()


def test_exporting_what_is_no_run_gives_one_line(tmp_path):
    assert_fails_in_one_line(export("absent", "--out", "x.pth"), "absent cannot be read as a checkpoint.*")
    assert_fails_in_one_line(export(tmp_path, "--out", "x.pth"), r".* holds no checkpoints/step-\*\.pt.*")


@pytest.mark.parametrize(("main", "name"), [(command.main, "genrep-train"), (export_command.main, "genrep-export")])
def test_help_shows_a_line_to_paste(main, name):
    assert re.search(rf"^ +{name} (--shards )?\S+", CliRunner().invoke(main, ["--help"]).output, flags=re.MULTILINE)
