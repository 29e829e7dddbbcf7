import json

import numpy as np
import pytest
from click.testing import CliRunner
from planted_sets import patches, write_planted

from genrep.evaluate.command import main


def invoke(*arguments):
    return CliRunner().invoke(main, ["views", *map(str, arguments), "--threads", "1"])


@pytest.fixture
def planted(tmp_path):
    """A set whose views are their anchors, 5 of 20 of which are equal."""
    anchors = patches(np.random.default_rng(0), np.arange(20) % 2)
    anchors[:5] = anchors[0]
    return write_planted(tmp_path / "planted", np.stack([anchors, anchors], 1), labels=np.arange(20) % 2)


def test_thresholds_set_the_status_with_a_line_each(planted, tmp_path):
    out = tmp_path / "audit"
    outcome = invoke("--shards", planted, "--data", "none", "--out", out)
    assert outcome.exit_code == 1
    moved, repeated = outcome.stderr.splitlines()[-2:]
    assert moved.startswith("crossed: planted, view 1 (gauss): views lie 0.000 of the distance")
    assert repeated == (
        "crossed: anchors of planted: 25.0% have a near duplicate, more than 1.0% above that: "
        "the generator repeats itself"
    )
    record = json.loads((out / "audit.json").read_text())
    assert record["format"] == "genrep-audit/1"
    assert ["crossed: " + line for line in record["crossed"]] == [moved, repeated]
    assert record["thresholds"]["max_duplicates"] == 0.01
    assert (out / "audit.html").read_text().startswith("<!doctype html>")


def test_thresholds_that_hold_leave_status_0_and_quiet_says_nothing(planted, tmp_path):
    limits = ("--min-move", 0, "--max-duplicates", 0.25)
    outcome = invoke("--shards", planted, "--data", "none", "--out", tmp_path / "audit", *limits, "--quiet")
    assert (outcome.exit_code, outcome.output) == (0, "")


def test_a_sweep_over_sigma_generates_sets_with_the_same_anchors(tmp_path):
    out = tmp_path / "audit"
    outcome = invoke(
        "--generator", "fashion-null", "--std", "0.1,1", "--samples", 12, "--data", "none", "--out", out, "--quiet"
    )
    assert outcome.exit_code in (0, 1), outcome.output
    record = json.loads((out / "audit.json").read_text())
    assert [(each["name"], each["std"], each["anchors"]) for each in record["sets"]] == [
        ("sigma 0.1", 0.1, 0),
        ("sigma 1", 1.0, 0),
    ]
    near, far = (each["views"][0] for each in record["sets"])
    assert far["latent_relative"] == pytest.approx(10 * near["latent_relative"], rel=0.01)
    assert near["feature_move"] < far["feature_move"]
    assert (out / "sets" / "sigma-0.1" / "manifest.json").is_file()


def test_real_images_may_be_a_folder_and_the_encoder_a_run(planted, photographs, run, tmp_path):
    out = tmp_path / "audit"
    outcome = invoke(
        "--shards", planted, "--data", f"imagefolder:{photographs}", "--checkpoint", run, "--out", out, "--min-class", 0
    )
    assert outcome.exit_code == 1  # views that do not move
    record = json.loads((out / "audit.json").read_text())
    assert record["real"]["num_training"] == 54
    assert record["features"] == f"the encoder {run}"
    assert set(record["anchors"][0]["predicted"]) == {"across", "down", "slanted"}
    assert record["sets"][0]["views"][0]["survival"]["value"] == 1  # they are their anchors


def refused(*arguments, status=1):
    outcome = invoke(*arguments)
    assert outcome.exit_code == status, outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_faults_are_one_line(planted, tmp_path):
    out = ("--out", tmp_path / "audit", "--data", "none")
    assert "either sets by --shards or a --generator" in refused(*out, status=2)
    assert "either sets" in refused("--shards", planted, "--generator", "fashion-null", *out, status=2)
    assert "are of a --generator" in refused("--shards", planted, "--std", "0.1", *out, status=2)
    assert "not a list of numbers above 0" in refused("--generator", "fashion-null", "--std", "a", *out, status=2)
    assert "not a list of numbers above 0" in refused("--generator", "fashion-null", "--std", "0.1,-1", *out, status=2)
    assert str(tmp_path / "gone") in refused("--shards", tmp_path / "gone", *out)
    assert "nowhere" in refused("--generator", "nowhere", *out)
    assert "unknown data 'x'" in refused("--shards", planted, "--out", tmp_path / "audit", "--data", "x")
    few = write_planted(tmp_path / "few", np.zeros((3, 2, 12, 12, 1), np.uint8))
    assert "few has 3 samples: at least 10 are needed" in refused("--shards", few, *out)
    assert not list(tmp_path.glob("audit/audit.*"))
