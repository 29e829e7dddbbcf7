import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from genrep.evaluate import KnnProbe, LinearProbe, evaluate
from genrep.evaluate.data import Part, RealData
from genrep.shards.errors import DataError

PROBES = [LinearProbe(), LinearProbe(2), KnnProbe(), KnnProbe(2)]
WIDE = LinearProbe(grid="wide")


def part_of(images, labels, source, first=0):
    return Part(source, first + np.arange(len(labels)), labels, lambda rows: list(images[np.asarray(rows), ..., None]))


@pytest.fixture
def data():
    """Bars of three widths at random places, with noise; 28 px grey."""
    rng = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(160) % 3
    images = rng.normal(60, 60, (160, 28, 28))
    for image, label in zip(images, labels, strict=True):
        left = rng.integers(16)
        image[:, left : left + 3 * label + 2] += 60
    images = np.clip(images, 0, 255).astype(np.uint8)
    return RealData(
        "bars",
        ("thin", "medium", "thick"),
        28,
        "0" * 64,
        part_of(images[:90], labels[:90], "train"),
        part_of(images[90:120], labels[90:120], "train", first=90),
        part_of(images[120:], labels[120:], "test"),
    )


def settings_of(results):
    return [[result.score.settings, *(floor.settings for floor in result.floors.values())] for result in results]


@dataclass(frozen=True)
class Remembering(LinearProbe):
    """Keeps what it fitted."""

    def fit(self, *args, **kwargs):
        model = super().fit(*args, **kwargs)
        fitted.append((model.weights, model.bias))
        return model


fitted: list = []


@pytest.mark.parametrize(
    ("labels_per_class", "grid"), [(None, "narrow"), (2, "narrow"), (None, "wide"), ("10%", "wide")]
)
@pytest.mark.parametrize("change", ["labels", "images"])
def test_other_test_data_leave_every_choice_and_every_weight_as_they_are(
    data, run, tmp_path, labels_per_class, grid, change
):
    if change == "labels":
        test = dataclasses.replace(
            data.test, labels=np.random.Generator(np.random.PCG64(1)).permutation(data.test.labels)
        )
    else:
        test = dataclasses.replace(data.test, read=lambda rows: [255 - image for image in data.test.read(rows)])
    other = dataclasses.replace(data, test=test, sha256="1" * 64)
    fitted.clear()
    results = [
        evaluate(run, each, [Remembering(labels_per_class, grid)], cache=tmp_path / name)
        for each, name in ((data, "one"), (other, "two"))
    ]
    assert settings_of(results[0]) == settings_of(results[1])
    assert len(fitted) == 8  # backbone and floors, twice
    for one, two in zip(fitted[:4], fitted[4:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert results[0][0].score.top1 != results[1][0].score.top1


def test_a_number_is_the_share_of_test_images_that_are_right(data, run, tmp_path):
    [plain] = evaluate(run, data, [LinearProbe()], cache=tmp_path / "one")
    shifted_labels = (data.test.labels + 1) % 3
    other = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=shifted_labels), sha256="1" * 64)
    [wrong] = evaluate(run, other, [LinearProbe()], cache=tmp_path / "two")
    assert plain.floors["raw pixels"].top1 > 0.5  # the task can be learned
    for one, two in zip([plain.score, *plain.floors.values()], [wrong.score, *wrong.floors.values()], strict=True):
        assert one.top1 + two.top1 <= 1  # an image is right under one labelling at most


def test_each_test_image_keeps_how_many_draws_were_right_on_it(data, run, tmp_path):
    for result in evaluate(run, data, PROBES, cache=tmp_path):
        draws = result.score.settings.get("num_draws", 1)
        assert result.right.shape == (40,)
        assert result.right.max() <= draws
        assert result.right.sum() / (40 * draws) == pytest.approx(result.score.top1)
        of_thin = result.right[data.test.labels == 0]
        assert of_thin.mean() / draws == pytest.approx(result.score.per_class["thin"])


def test_the_held_out_number_knows_nothing_of_the_test_part(data, run, tmp_path):
    as_test = dataclasses.replace(data, test=data.held_out, sha256="1" * 64)
    other = dataclasses.replace(data, test=data.fit, sha256="2" * 64)
    results = [evaluate(run, each, PROBES, cache=tmp_path) for each in (data, as_test, other)]
    for one, two, three in zip(*results, strict=True):
        assert one.held_out_top1 == two.held_out_top1 == three.held_out_top1
        assert one.held_out_top1 == pytest.approx(two.score.top1)


def test_each_probe_gets_a_result_with_three_floors_and_their_widths(data, run, tmp_path):
    results = evaluate(run, data, PROBES, shift="affine", seed=2, cache=tmp_path)
    assert [(r.measure, r.labels_per_class) for r in results] == [
        ("linear", None),
        ("linear", 2),
        ("knn", None),
        ("knn", 2),
    ]
    for result in results:
        assert {name: floor.feature_width for name, floor in result.floors.items()} == {
            "raw pixels": 784,
            "untrained backbone": 128,
            "untrained convolution": 1152,
        }
        assert result.score.feature_width == 128
        assert (result.shift, result.seed, result.recipe) == ("affine", 2, "c0ffee")
        assert result.num_images == {"fit": 90, "held_out": 30, "test": 40}
        drawn = result.labels_per_class is not None
        assert result.score.interval_kind == ("draws" if drawn else "wilson")
        assert result.score.settings.get("num_draws") == (50 if drawn else None)


def test_probes_together_give_what_they_give_alone(data, run, tmp_path):
    together = evaluate(run, data, PROBES, cache=tmp_path / "together")
    alone = [evaluate(run, data, [probe], cache=tmp_path / "alone")[0] for probe in PROBES]
    assert together == alone


def test_the_wide_grid_tries_every_pooling_and_normalisation_and_reports_the_width_of_one(data, run, tmp_path):
    [result] = evaluate(run, data, [WIDE], cache=tmp_path)
    settings = result.score.settings
    tried = set(zip(settings["pooling_grid"], settings["normalisation_grid"], strict=True))
    assert tried == {(p, n) for p in ("average", "maximum") for n in ("standardised", "none", "l2")}
    assert len(settings["held_out_top1"]) == len(settings["weight_decay_grid"]) == 6 * 14
    best = int(np.argmax(settings["held_out_top1"]))
    for name in ("pooling", "normalisation", "weight_decay"):
        assert settings[name] == settings[f"{name}_grid"][best]
    assert {name: floor.feature_width for name, floor in result.floors.items()} == {
        "raw pixels": 784,
        "untrained backbone": 128,
        "untrained convolution": 1152,
    }
    assert set(result.floors["raw pixels"].settings["pooling_grid"]) == {"own"}


def test_neighbours_beside_a_wide_grid_are_those_of_the_usual_features(data, run, tmp_path):
    [alone] = evaluate(run, data, [KnnProbe()], cache=tmp_path / "one")
    beside = evaluate(run, data, [KnnProbe(), WIDE], cache=tmp_path / "two")[0]
    assert beside.score == alone.score


def features_computed(seen):
    return {what for what, _, _ in seen if what.endswith("features")}


def test_the_second_run_that_shares_a_cache_computes_no_floor(data, run, save_run, tmp_path):
    first = evaluate(run, data, PROBES, cache=tmp_path / "cache")
    seen = []
    second = evaluate(
        save_run(tmp_path / "other", seed=6), data, PROBES, cache=tmp_path / "cache", progress=lambda *a: seen.append(a)
    )
    assert features_computed(seen) == {"backbone: features"}
    assert [result.floors for result in second] == [result.floors for result in first]
    assert second[0].checkpoint != first[0].checkpoint


def test_the_seed_moves_draws_and_nothing_else(data, run, tmp_path):
    one, two = (evaluate(run, data, PROBES, seed=seed, cache=tmp_path) for seed in (0, 1))
    assert [a.score == b.score for a, b in zip(one, two, strict=True)] == [True, False, True, False]
    assert [a.floors == b.floors for a, b in zip(one, two, strict=True)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("backbone: features", ["backbone", "raw pixels", "untrained backbone", "untrained convolution"]),
        ("untrained backbone: features", ["untrained backbone", "untrained convolution"]),
        ("untrained convolution: probes", ["untrained convolution"]),
    ],
)
def test_an_interrupted_measurement_goes_on_to_the_same_result(data, run, tmp_path, where, left):
    def interrupt(what, done, total):
        if what == where:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(run, data, PROBES, cache=tmp_path / "cache", progress=interrupt)
    seen = []
    continued = evaluate(run, data, PROBES, cache=tmp_path / "cache", progress=lambda *a: seen.append(a))
    assert features_computed(seen) == {f"{encoder}: features" for encoder in left}
    assert continued == evaluate(run, data, PROBES, cache=tmp_path / "whole")


def test_without_a_cache_folder_the_run_keeps_its_own(data, run):
    by_run = evaluate(run, data, [KnnProbe()])
    kept = set(run.rglob("evaluation/cache/*/*"))
    assert kept
    by_file = evaluate(run / "checkpoints" / "step-00000002.pt", data, [KnnProbe()])
    assert set(run.rglob("evaluation/cache/*/*")) == kept
    assert by_file[0].score == by_run[0].score


def test_more_labels_than_a_class_has_are_refused_before_any_work(data, run, tmp_path):
    with pytest.raises(DataError, match="bars has 30 images of 'thin' to fit on, not 31: use --labels-per-class 30"):
        evaluate(run, data, [LinearProbe(31)], cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_backbone_that_diverged_is_refused(data, save_run, tmp_path):
    def spoil(weights):
        weights["stem.1.bias"].fill_(torch.nan)

    broken = save_run(tmp_path / "diverged", change=spoil)
    with pytest.raises(DataError, match="backbone: its features of train images are not finite"):
        evaluate(broken, data, [KnnProbe()])


def test_a_damaged_floor_is_refused_by_name(data, run, tmp_path):
    evaluate(run, data, [KnnProbe()], cache=tmp_path)
    for file in (tmp_path / "floors").iterdir():
        file.write_text('{"top1": 1')
    with pytest.raises(DataError, match=r"floors/.*\.json cannot be read.*remove it"):
        evaluate(run, data, [KnnProbe()], cache=tmp_path)
