import json
import os
import re
import signal
import time

import numpy as np
import pytest
from click.testing import CliRunner
from drawn_voc import CLASSES
from sklearn.svm import LinearSVC

from genrep.evaluate.command import main
from genrep.evaluate.data import open_data
from genrep.evaluate.draws import words
from genrep.evaluate.floors import untrained_convolution
from genrep.evaluate.resamples import resamples
from genrep.evaluate.svm import (
    DECADES,
    HALVES,
    best,
    finer_costs,
    fit_multi_label,
    fit_single_label,
    fit_svm,
    folds,
    mean_per_class,
)
from genrep.evaluate.svm_evaluation import evaluate_svm, open_multi_label
from genrep.shards.errors import DataError


def clouds(seed, images=90, classes=3, width=6):
    """Unit features around three centres, and the number of their centre."""
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = np.arange(images) % classes
    features = np.eye(classes, width)[labels] + rng.normal(0, 0.45, (images, width))
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def one_hot(labels, classes=3):
    return np.where(labels[:, None] == np.arange(classes), 1, -1)


@pytest.mark.parametrize("cost", [1e-3, 0.5, 10.0])
def test_a_machine_is_the_minimum_that_the_authors_dual_finds(cost):
    features, labels = clouds(0)
    own = fit_svm(features, labels == 1, cost)
    dual = LinearSVC(C=cost, class_weight={1: 2}, dual=True, max_iter=100_000, tol=1e-6, random_state=0)
    dual.fit(features, (labels == 1).astype(int))
    np.testing.assert_allclose(own.weights, dual.coef_[0], atol=2e-3 * np.abs(dual.coef_).max())
    assert own.bias == pytest.approx(dual.intercept_[0], abs=2e-3 * np.abs(dual.coef_).max())


def test_the_costs_are_the_authors():
    np.testing.assert_allclose(DECADES, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100])
    assert [round(-np.log2(cost)) for cost in HALVES] == list(range(19, 3, -1))


def test_finer_costs_lie_within_a_decade_of_the_best():
    assert finer_costs({0.1: 0.5, 1.0: 0.4}) == (1 / 64, 1 / 32, 1 / 16)
    assert best({1.0: 0.5, 0.1: 0.5, 10.0: 0.2}) == 0.1


def test_folds_are_a_partition_with_equal_shares_of_positives():
    positive = np.arange(100) % 4 == 0
    fold = folds(positive, np.arange(100), seed=3)
    assert [(fold[positive] == number).sum() for number in range(3)] == [9, 8, 8]
    assert [(fold[~positive] == number).sum() for number in range(3)] == [25, 25, 25]
    assert not np.array_equal(fold, folds(positive, np.arange(100), seed=4))


def test_folds_follow_from_the_words_of_the_positions_alone():
    positive, positions = np.arange(12) % 2 == 0, np.arange(5, 17)
    keys = words("folds", positions, seed=8, count=1)[:, 0].tolist()
    expected = {}
    for side in (True, False):
        rows = sorted((row for row in range(12) if positive[row] == side), key=keys.__getitem__)
        expected |= {row: rank % 3 for rank, row in enumerate(rows)}
    assert folds(positive, positions, seed=8).tolist() == [expected[row] for row in range(12)]


def test_an_image_that_takes_no_part_in_a_class_moves_nothing_there():
    features, labels = clouds(1)
    multi = one_hot(labels)
    multi[:6, 0] = 0
    moved = features.copy()
    moved[:6] = moved[:6, ::-1]
    one, other = (fit_multi_label(f, multi, ("a", "b", "c"), seed=0) for f in (features, moved))
    np.testing.assert_array_equal(one.weights[:, 0], other.weights[:, 0])
    assert one.tried[0] == other.tried[0]
    assert not np.array_equal(one.weights[:, 1], other.weights[:, 1])


def test_the_cost_of_a_class_is_the_best_it_tried():
    features, labels = clouds(2)
    svms = fit_multi_label(features, one_hot(labels), ("a", "b", "c"), seed=0)
    for cost, tried in zip(svms.costs, svms.tried, strict=True):
        assert set(DECADES) <= set(tried) <= set(DECADES) | set(HALVES)
        assert tried[cost] == max(tried.values())
    weights, bias = fit_svm(features, labels == 2, svms.costs[2])
    np.testing.assert_allclose(svms.scores(features)[:, 2], features @ weights + bias)


def test_a_class_of_two_images_is_refused_by_name():
    features, labels = clouds(3)
    multi = one_hot(labels)
    multi[:, 1] = -1
    multi[:2, 1] = 1
    with pytest.raises(DataError, match=r"class 'b' has 2 images with it and 88 without it"):
        fit_multi_label(features, multi, ("a", "b", "c"), seed=0)


def test_one_cost_serves_all_classes_where_an_image_has_one():
    (features, labels), (held, held_labels) = clouds(4), clouds(5)
    svms = fit_single_label(features, labels, held, held_labels, num_classes=3)
    assert len(set(svms.costs)) == 1
    tried = svms.tried[0]
    assert tried[svms.costs[0]] == max(tried.values())
    right = svms.scores(held).argmax(1) == held_labels
    assert mean_per_class(right, held_labels) == tried[svms.costs[0]] > 0.7


def test_the_mean_per_class_counts_small_classes_as_much_as_large_ones():
    labels = np.array([0] * 8 + [1] * 2)
    right = np.array([True] * 8 + [False, True])
    assert mean_per_class(right, labels) == pytest.approx((1 + 0.5) / 2)
    assert mean_per_class(right, labels, np.array([1] * 8 + [0, 0])) == 1


def test_resamples_draw_as_many_images_with_replacement():
    drawn = np.stack(list(resamples(50, seed=1)))
    assert drawn.shape == (1000, 50)
    assert (drawn.sum(1) == 50).all()
    assert np.abs(drawn.mean(0) - 1).max() < 0.2
    assert (drawn == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.02)


@pytest.fixture
def floor(monkeypatch):
    """One floor, two decades, few resamples, for speed: the test is about something else."""
    one = lambda backbone, *, side: [untrained_convolution(side)]  # noqa: E731
    monkeypatch.setattr("genrep.evaluate.svm_evaluation.floors", one)
    monkeypatch.setattr("genrep.evaluate.svm.DECADES", (0.01, 1.0))
    monkeypatch.setattr("genrep.evaluate.resamples.NUM_RESAMPLES", 20)


def lists(voc, split):
    return sorted((voc / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main").glob(f"*_{split}.txt"))


def test_costs_are_chosen_without_the_split_to_report_on(run, voc, tmp_path, floor):
    before = evaluate_svm(run, open_multi_label(voc), cache=tmp_path / "cache")
    for file in lists(voc, "test"):
        text = file.read_text()
        flipped = [f"{line.split()[0]} {-int(line.split()[1])}" for line in text.splitlines()]
        file.write_text("\n".join(flipped))
    after = evaluate_svm(run, open_multi_label(voc), cache=tmp_path / "cache")
    for one, other in ((before.score, after.score), *zip(before.floors.values(), after.floors.values(), strict=True)):
        assert one.settings == other.settings
        assert [each["cost"] for each in one.per_class.values()] == [each["cost"] for each in other.per_class.values()]
    assert after.score.numbers != before.score.numbers


def test_difficult_images_are_left_out_or_positive(voc):
    ignored, held = (open_multi_label(voc, difficult=how) for how in ("ignore", "positive"))
    for part, other in ((ignored.fit, held.fit), (ignored.test, held.test)):
        assert (part.labels[9::10, 0] == 0).all()
        assert (other.labels[9::10, 0] == 1).all()
        rest = np.delete(np.arange(30), np.s_[9::10])
        np.testing.assert_array_equal(part.labels[rest], other.labels[rest])
    assert ignored.sha256 != held.sha256


def test_difficult_images_of_the_test_split_do_not_count_unless_positive(run, voc, tmp_path, floor):
    """With the difficult test discs drawn over by noise, only a measurement that counts them can notice."""
    from PIL import Image

    def measured(how):
        result = evaluate_svm(run, open_multi_label(voc, difficult=how), cache=tmp_path / "cache")
        return result.score.per_class["disc"]["ap_area"]

    before = {how: measured(how) for how in ("ignore", "positive")}
    for number in (39, 49, 59):
        file = voc / "VOCdevkit" / "VOC2007" / "JPEGImages" / f"{number:06}.jpg"
        Image.new("RGB", (64, 64), (50, 190, 60)).save(file)
    assert measured("ignore") == before["ignore"]
    assert measured("positive") != before["positive"]


def test_the_command_ends_with_a_table_and_a_result(run, voc):
    outcome = invoke("--checkpoint", run, "--data", f"voc:{voc}", "--threads", 1, "--device", "cpu", "--seed", 2)
    assert outcome.exit_code == 0, outcome.output
    out = run / "evaluation" / "svm-voc-voc-seed2.json"
    result = json.loads(out.read_text())
    assert (result["format"], result["measure"], result["seed"]) == ("genrep-result/1", "svm", 2)
    assert result["num_images"] == {"fit": 30, "test": 30}
    assert set(result["floors"]) == {"raw pixels", "untrained backbone", "untrained convolution"}
    assert set(result["per_class"]) == set(CLASSES)
    for name in ("ap_11_point", "ap_area"):
        values = [of[name] for of in result["per_class"].values()]
        assert result[f"m{name}"] == pytest.approx(np.mean(values))
    low, high = result["interval"]
    assert 0 <= low <= result["map_11_point"] <= high <= 1
    assert len(result["checkpoint"]) == 64
    assert result["floors"]["raw pixels"]["feature_width"] == 3072
    lines = outcome.stdout.splitlines()
    assert lines[1].split("  ")[-1].strip() == "features"
    assert lines[2].split()[:3] == ["this", "encoder", f"{100 * result['map_11_point']:.1f}"]
    assert lines[-1] == f"written to {out}"
    assert outcome.stderr == ""


def test_colours_are_found(run, voc, tmp_path, floor):
    """Three colours on grey noise: features that keep colour rank the images of a class well above its share."""
    result = evaluate_svm(run, open_multi_label(voc), cache=tmp_path / "cache")
    assert result.floors["untrained convolution"].numbers["map_11_point"] > 0.7


def test_images_of_one_class_have_mean_per_class_accuracy_and_top1(run, photographs, tmp_path, floor):
    out = tmp_path / "result.json"
    outcome = invoke("--checkpoint", run, "--data", f"imagefolder:{photographs}", "--threads", 1, "--out", out)
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(out.read_text())
    assert result["num_images"] == {"fit": 54, "held_out": 6, "test": 24}
    assert result["top1"] == result["mean_per_class"]  # classes of equal size
    assert result["interval"][0] <= result["top1"] <= result["interval"][1]
    assert set(result["per_class"]) == {"across", "down", "slanted"}


def test_a_crop_in_place_of_the_encoders_own(run, photographs, floor):
    data = open_data(f"imagefolder:{photographs}")
    own, larger = (evaluate_svm(run, data, crop=crop) for crop in (None, 40))
    assert own.score != larger.score
    assert own.floors == larger.floors


def test_floors_are_measured_once(run, voc, tmp_path, monkeypatch, floor):
    first = evaluate_svm(run, open_multi_label(voc), cache=tmp_path / "cache")
    fits = []
    monkeypatch.setattr(
        "genrep.evaluate.svm_evaluation.fit_multi_label", lambda *a, **k: fits.append(1) or fit_multi_label(*a, **k)
    )
    again = evaluate_svm(run, open_multi_label(voc), cache=tmp_path / "cache")
    assert again == first
    assert len(fits) == 1


def invoke(*arguments):
    return CliRunner().invoke(main, ["svm", *map(str, arguments)])


def refused(*arguments, status=1):
    outcome = invoke(*arguments)
    assert outcome.exit_code == status, outcome.output
    assert "Traceback" not in outcome.output
    assert len(outcome.stderr.strip().splitlines()) == 1
    return outcome.stderr.strip()


def test_what_cannot_be_is_one_line_and_leaves_nothing(run, voc, tmp_path):
    before = set(tmp_path.rglob("*"))
    assert "holds no VOC2007: unpack" in refused("--checkpoint", run, "--data", f"voc:{tmp_path}")
    assert "no CLASS_none.txt" in refused("--checkpoint", run, "--data", f"voc:{voc}", "--splits", "train,none")
    assert "needs a ROOT" in refused("--checkpoint", run, "--data", "voc:", status=2)
    line = refused("--checkpoint", run, "--data", "fashion-mnist", "--splits", "train,val", status=2)
    assert "belong to --data voc:ROOT" in line
    assert set(tmp_path.rglob("*")) == before


def test_a_damaged_image_is_one_line(run, voc):
    file = voc / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000031.jpg"
    file.write_bytes(file.read_bytes()[:200])
    assert f"{file} is not a readable image" in refused("--checkpoint", run, "--data", f"voc:{voc}")
    assert not list(run.rglob("evaluation/*.json"))


def test_a_class_that_no_image_to_report_on_holds_is_refused(run, voc):
    file = lists(voc, "test")[1]
    file.write_text(re.sub(" +1", " -1", file.read_text()))
    assert "no image of test holds 'square'" in refused("--checkpoint", run, "--data", f"voc:{voc}")


def test_ctrl_c_is_one_line(run, voc, monkeypatch):
    def stop(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # in a thread of its own

    monkeypatch.setattr("genrep.evaluate.svm.fit_svm", stop)
    assert refused("--checkpoint", run, "--data", f"voc:{voc}").startswith("Error: interrupted")


def test_the_examples_of_the_help_are_understood():
    text = CliRunner().invoke(main, ["svm", "--help"]).output
    examples = [line.split() for line in text.splitlines() if line.strip().startswith("genrep-evaluate ")]
    assert len(examples) == 2
    for _, measure, *options in examples:
        main.commands[measure].make_context(measure, options)
