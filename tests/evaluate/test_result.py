import dataclasses
import errno
import json
import os

import numpy as np
import pytest

from genrep.evaluate.interval import wilson
from genrep.evaluate.result import Result, Score, score, write_result
from genrep.shards.errors import DataError

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 1])


@pytest.fixture
def result():
    own = Score(0.7, (0.6, 0.8), "wilson", {"a": 0.5, "b": 0.9}, 128, {"k": 20}, (0.6, 0.8))
    floor = Score(0.4, (0.3, 0.5), "wilson", {"a": 0.4, "b": 0.4}, 784, {"k": 20}, (0.3, 0.5))
    return Result(
        measure="knn",
        score=own,
        floors={"raw pixels": floor},
        data="fashion-mnist",
        data_sha256="d" * 64,
        num_images={"fit": 54_000, "held_out": 6_000, "test": 10_000},
        shift="none",
        seed=3,
        labels_per_class=None,
        checkpoint="c" * 64,
        checkpoint_path="runs/gauss",
        training={"method": "simclr"},
        recipe="r" * 64,
        command="genrep-evaluate knn --checkpoint runs/gauss",
        right=np.ones(10, np.int64),
        held_out_top1=0.5,
    )


def test_a_score_counts_what_is_right_in_all_and_by_class():
    predictions = np.array([[0, 0, 1, 1, 1, 1, 1, 0]])
    scored = score(predictions, LABELS, ("a", "b"), feature_width=9, settings={}, drawn=False)
    assert scored.top1 == 6 / 8
    assert scored.per_class == {"a": 2 / 3, "b": 4 / 5}
    assert (scored.interval_kind, scored.interval) == ("wilson", wilson(6, 8))
    assert scored.test_interval == scored.interval


def test_a_score_of_draws_is_their_mean_and_spread():
    right_per_draw = [8, 6, 4, 2]
    predictions = np.stack([np.where(np.arange(8) < right, LABELS, 1 - LABELS) for right in right_per_draw])
    scored = score(predictions, LABELS, ("a", "b"), feature_width=9, settings={}, drawn=True)
    assert scored.top1 == pytest.approx(20 / 32)
    assert scored.per_class == pytest.approx({"a": 11 / 12, "b": 9 / 20})
    assert scored.interval_kind == "draws"
    assert scored.interval == pytest.approx((0.26875, 0.98125))  # 2.5 % and 97.5 % of the way from 0.25 to 1


def test_draws_and_test_images_have_an_interval_each():
    agreeing = np.tile(np.array([0, 0, 1, 1, 1, 1, 1, 0]), (4, 1))  # four fits, each wrong on the same two images
    scored = score(agreeing, LABELS, ("a", "b"), feature_width=9, settings={}, drawn=True)
    assert scored.interval == (0.75, 0.75)
    half = 1.96 * (0.75 * 0.25 / 7) ** 0.5  # of eight images that are right or wrong
    assert scored.test_interval == pytest.approx((0.75 - half, 1.0), abs=1e-4)


def test_a_result_says_what_was_measured_how_and_on_what(result, tmp_path):
    write_result(result, tmp_path / "new" / "result.json")
    written = json.loads((tmp_path / "new" / "result.json").read_text())
    assert written["format"] == "genrep-result/1"
    assert (written["measure"], written["top1"], written["interval"]) == ("knn", 0.7, [0.6, 0.8])
    assert written["unit"] == "fraction of 10000 test images"
    assert written["floors"]["raw pixels"]["top1"] == 0.4
    assert written["floors"]["raw pixels"]["feature_width"] == 784
    assert written["per_class"] == {"a": 0.5, "b": 0.9}
    assert (written["seed"], written["checkpoint"], written["recipe"]) == (3, "c" * 64, "r" * 64)
    assert (written["data"], written["shift"], written["feature_width"]) == ("fashion-mnist", "none", 128)
    assert written["settings"] == {"k": 20}
    assert written["command"] == "genrep-evaluate knn --checkpoint runs/gauss"


def test_a_score_survives_json():
    scored = Score(0.7, (0.6, 0.8), "wilson", {"a": 0.5, "b": 0.9}, 128, {"weight_decay": 0.1}, (0.6, 0.8))
    assert Score.from_json(json.loads(json.dumps(dataclasses.asdict(scored)))) == scored


def test_a_number_that_is_none_is_refused_and_the_old_result_stays(result, tmp_path):
    path = tmp_path / "result.json"
    write_result(result, path)
    before = path.read_bytes()
    broken = dataclasses.replace(result, score=dataclasses.replace(result.score, top1=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(broken, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_failed_write_leaves_the_old_result(result, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_result(result, path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"result\.json could not be written \(No space left on device\)"):
        write_result(dataclasses.replace(result, seed=4), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_result_that_cannot_be_written_is_one_line(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be written"):
        write_result(result, tmp_path / "file" / "result.json")
