import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="extra detect")

from genrep.evaluate.detection_precision import Detections, detection_precision
from genrep.evaluate.voc import Box


def found(*boxes):
    """Detections of (label, score, corners)."""
    labels, scores, corners = zip(*boxes, strict=True) if boxes else ((), (), ())
    return Detections(
        np.array(corners, float).reshape(-1, 4), np.array(labels, dtype=np.int64), np.array(scores, dtype=float)
    )


def test_found_boxes_worked_out_by_hand():
    """Of class a two objects: one found exactly, one not; of class b one, found with an overlap of 0.6, after a miss.

    AP50 of a: precision 1 up to recall 1/2, then 0: 51 of 101 recalls, 6 of 11. Of b: precision 1/2 throughout.
    At the overlaps 0.50, 0.55 and 0.60 b is found, at the other seven it is not.
    """
    truth = [[Box(0, (0, 0, 10, 10), False), Box(0, (20, 20, 30, 30), False)], [Box(1, (0, 0, 10, 10), False)]]
    detected = [
        found((0, 0.9, (0, 0, 10, 10))),
        found((1, 0.8, (50, 50, 60, 60)), (1, 0.7, (0, 0, 10, 6))),
    ]
    precision = detection_precision(detected, truth, ("a", "b"), seed=0)
    assert precision.per_class["a"] == pytest.approx(
        {"ap50": 51 / 101, "ap": 51 / 101, "ap75": 51 / 101, "ap50_11_point": 6 / 11}
    )
    assert precision.per_class["b"] == pytest.approx({"ap50": 0.5, "ap": 0.5 * 3 / 10, "ap75": 0, "ap50_11_point": 0.5})
    assert precision.numbers["ap50"] == pytest.approx((51 / 101 + 0.5) / 2)
    assert precision.interval[0] <= precision.numbers["ap50"] <= precision.interval[1]


def test_all_found_is_1_and_nothing_found_is_0():
    truth = [[Box(0, (1, 2, 30, 40), False)], [Box(0, (5, 5, 9, 9), False), Box(1, (0, 0, 50, 50), False)], []]
    every = [found(*((box.label, 0.9, box.corners) for box in boxes)) for boxes in truth]
    perfect = detection_precision(every, truth, ("a", "b"), seed=0)
    assert list(perfect.numbers.values()) == pytest.approx([1] * 4)
    nothing = detection_precision([found(), found(), found()], truth, ("a", "b"), seed=0)
    assert set(nothing.numbers.values()) == {0.0}
    assert (perfect.interval, nothing.interval) == (pytest.approx((1, 1)), (0, 0))


def test_a_second_box_on_the_same_object_is_wrong():
    truth = [[Box(0, (0, 0, 10, 10), False), Box(0, (20, 20, 30, 30), False)]]
    twice = found((0, 0.9, (0, 0, 10, 10)), (0, 0.8, (0, 0, 10, 9)), (0, 0.7, (20, 20, 30, 30)))
    precision = detection_precision([twice], truth, ("a",), seed=0)
    assert precision.numbers["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_difficult_objects_are_neither_right_nor_wrong_to_find():
    easy = Box(0, (0, 0, 10, 10), False)
    missed = detection_precision(
        [found((0, 0.5, easy.corners))], [[easy, Box(0, (20, 20, 40, 40), True)]], ("a",), seed=0
    )
    hit = detection_precision(
        [found((0, 0.9, (20, 20, 40, 40)), (0, 0.8, (20, 20, 40, 39)), (0, 0.5, easy.corners))],
        [[easy, Box(0, (20, 20, 40, 40), True)]],
        ("a",),
        seed=0,
    )
    assert missed.numbers == hit.numbers
    assert missed.numbers["ap50"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_the_resampled_curve_is_cocos_on_the_images_as_they_are(seed, monkeypatch):
    monkeypatch.setattr(
        "genrep.evaluate.detection_precision.resamples", lambda images, *, seed: [np.ones(images, np.int64)]
    )
    rng = np.random.Generator(np.random.PCG64(seed))
    truth, detected = [], []
    for _ in range(12):
        corners = [(x, y, x + 12, y + 12) for x, y in rng.uniform(0, 80, (4, 2))]
        truth.append([Box(int(rng.integers(2)), corner, bool(rng.random() < 0.2)) for corner in corners])
        moved = [(box.label, rng.random(), np.array(box.corners) + rng.normal(0, 2, 4)) for box in truth[-1]]
        detected.append(found(*moved))
    precision = detection_precision(detected, truth, ("a", "b"), seed=0)
    assert 0.1 < precision.numbers["ap50"] < 0.9
    assert precision.interval == pytest.approx((precision.numbers["ap50"],) * 2)
