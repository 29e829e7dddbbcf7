import numpy as np
import pytest

from genrep.evaluate.result import Result, Score
from genrep.evaluate.table import curve, table


def result_with(floor_top1, *, measure="linear", labels_per_class=None, shift="none"):
    def scored(top1, width):
        return Score(
            top1, (top1 - 0.01, top1 + 0.01), "wilson", {}, width, {"num_draws": 50}, (top1 - 0.005, top1 + 0.005)
        )

    return Result(
        measure=measure,
        score=scored(0.848, 128),
        floors={"raw pixels": scored(0.1, 784), "untrained convolution": scored(floor_top1, 1152)},
        data="fashion-mnist",
        data_sha256="",
        num_images={"fit": 54_000, "held_out": 6_000, "test": 10_000},
        shift=shift,
        seed=0,
        labels_per_class=labels_per_class,
        checkpoint="",
        checkpoint_path="",
        training={},
        recipe=None,
        command=None,
        right=np.ones(10, np.int64),
        held_out_top1=0.5,
    )


def test_numbers_intervals_and_widths_stand_under_each_other():
    assert table(result_with(0.5)).splitlines() == [
        "fashion-mnist, linear probe, 10000 test images",
        "                              top-1 %  95 %, test images  features",
        "this encoder                     84.8       84.3 to 85.3       128",
        "floor: raw pixels                10.0        9.5 to 10.5       784",
        "floor: untrained convolution     50.0       49.5 to 50.5      1152",
    ]


def test_with_few_labels_draws_and_test_images_stand_apart():
    lines = table(result_with(0.5, labels_per_class=10)).splitlines()
    assert lines[1].split("  ")[-3:] == ["95 % of draws", "95 %, test images", "features"]
    shown = [word.strip() for word in lines[2].split("  ") if word]
    assert shown == ["this encoder", "84.8", "83.8 to 85.8", "84.3 to 85.3", "128"]


def test_a_curve_has_a_column_for_each_number_of_labels():
    results = [result_with(floor, labels_per_class=labels) for floor, labels in ((0.3, 1), (0.4, "10%"), (0.5, None))]
    assert curve(results).splitlines() == [
        "fashion-mnist, linear probe, 10000 test images",
        "top-1 %, labels a class:         1   10%   all  features",
        "this encoder                  84.8  84.8  84.8       128",
        "floor: raw pixels             10.0  10.0  10.0       784",
        "floor: untrained convolution  30.0  40.0  50.0      1152",
    ]


def test_a_floor_that_wins_is_named_in_a_line_of_its_own():
    assert table(result_with(0.895)).splitlines()[-1] == (
        "untrained convolution wins by 4.7 points: this number does not show learning"
    )


@pytest.mark.parametrize(
    ("measure", "labels_per_class", "shift", "title"),
    [
        ("knn", None, "affine", "fashion-mnist, 20-NN, affine shift, 10000 test images"),
        (
            "linear",
            10,
            "none",
            "fashion-mnist, linear probe, 10 labels a class (mean of 50 draws), 10000 test images",
        ),
    ],
)
def test_the_title_names_the_measurement(measure, labels_per_class, shift, title):
    found = table(result_with(0.5, measure=measure, labels_per_class=labels_per_class, shift=shift))
    assert found.splitlines()[0] == title
