import numpy as np
import pytest

from genrep.evaluate.result import Result, Score
from genrep.evaluate.table import table


def result_with(floor_top1, *, measure="linear", labels_per_class=None, shift="none"):
    def scored(top1, width):
        return Score(top1, (top1 - 0.01, top1 + 0.01), "wilson", {}, width, {"num_draws": 50})

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
        "                              top-1 %  95 % interval  features",
        "this encoder                     84.8   83.8 to 85.8       128",
        "floor: raw pixels                10.0    9.0 to 11.0       784",
        "floor: untrained convolution     50.0   49.0 to 51.0      1152",
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
            "fashion-mnist, linear probe, 10 labels a class (mean of 50 draws, and where 95 % of them lie), "
            "10000 test images",
        ),
    ],
)
def test_the_title_names_the_measurement(measure, labels_per_class, shift, title):
    found = table(result_with(0.5, measure=measure, labels_per_class=labels_per_class, shift=shift))
    assert found.splitlines()[0] == title
