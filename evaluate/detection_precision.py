"""Average precision of detected boxes, by pycocotools (extra detect), with VOC's eleven points beside it."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.average_precision import Ranking, ranking
from genrep.evaluate.interval import Interval, spread
from genrep.evaluate.resamples import resamples
from genrep.evaluate.voc import Box
from genrep.shards.errors import DataError


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image.

    Attributes:
        corners: (K, 4), as of a :class:`~genrep.evaluate.voc.Box`.
        labels, scores: (K,).
    """

    corners: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class DetectionPrecision:
    """How much of it was right.

    Attributes:
        numbers: ``ap50``, ``ap`` (mean over overlaps 0.50, 0.55 ... 0.95) and ``ap75`` as COCO counts them, and
            ``ap50_11_point``; means over classes.
        per_class: Class name -> the same names -> fraction.
        interval: 95 % of ``ap50``, by resampled images.
    """

    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    interval: Interval


def require_pycocotools() -> None:
    """See that it is installed.

    Raises:
        DataError: If not.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise DataError("detection is scored by the package pycocotools: pip install 'genrep[detect]'") from error


def detection_precision(
    found: list[Detections], truth: list[list[Box]], class_names: tuple[str, ...], *, seed: int
) -> DetectionPrecision:
    """Compare what was found in each of N images with the objects there; every class has one that is not difficult.

    A difficult object is neither right nor wrong to find: it is a crowd to COCO, on which any number of boxes may lie.
    """
    evaluation = _evaluated(found, truth, len(class_names))
    precision = evaluation.eval["precision"][..., 0, 0]  # (overlaps, recalls, classes) of all sizes, 100 boxes an image
    views = {
        "ap50": precision[0],
        "ap": precision.mean(0),
        "ap75": precision[5],
        "ap50_11_point": precision[0, ::10],
    }
    by_class = {name: view.mean(0) for name, view in views.items()}
    return DetectionPrecision(
        {name: float(values.mean()) for name, values in by_class.items()},
        {
            label_name: {name: float(values[label]) for name, values in by_class.items()}
            for label, label_name in enumerate(class_names)
        },
        _interval(evaluation.evalImgs, len(class_names), seed=seed),
    )


def _evaluated(found: list[Detections], truth: list[list[Box]], num_classes: int) -> Any:
    """COCO counts images, classes and objects from 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotation(image: int, label: int, corners: Any) -> dict[str, Any]:
        left, top, right, bottom = map(float, corners)
        width, height = right - left, bottom - top
        area = width * height
        return {"image_id": image, "category_id": label + 1, "bbox": [left, top, width, height], "area": area}

    objects = [
        {**annotation(image, box.label, box.corners), "iscrowd": int(box.difficult)}
        for image, boxes in enumerate(truth, 1)
        for box in boxes
    ]
    boxes = [
        {**annotation(image, int(label), corners), "iscrowd": 0, "score": float(score)}
        for image, each in enumerate(found, 1)
        for corners, label, score in zip(each.corners, each.labels, each.scores, strict=True)
    ]

    def of(annotations: list[dict[str, Any]]) -> Any:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(1, len(truth) + 1)],
            "categories": [{"id": label} for label in range(1, num_classes + 1)],
            "annotations": [{**each, "id": number} for number, each in enumerate(annotations, 1)],
        }
        coco.createIndex()
        return coco

    with redirect_stdout(io.StringIO()):  # it reports to people as it goes
        evaluation = COCOeval(of(objects), of(boxes), "bbox")
        evaluation.params.maxDets = [100]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _interval(matched: list[dict[str, Any] | None], num_classes: int, *, seed: int) -> Interval:
    """Of AP50, from COCO's matches: image by image, class after class."""
    num_images = len(matched) // num_classes
    classes: list[tuple[Ranking | None, NDArray[np.int64], NDArray[np.int64]]] = []
    for label in range(num_classes):
        present = np.zeros(num_images, np.int64)
        scores, right, images = [np.empty(0)], [np.empty(0, bool)], [np.empty(0, np.int64)]
        for image, match in enumerate(matched[label * num_images : (label + 1) * num_images]):
            if match is not None:
                present[image] = (np.asarray(match["gtIgnore"]) == 0).sum()
                counted = ~np.asarray(match["dtIgnore"][0], bool)
                scores.append(np.asarray(match["dtScores"])[counted])
                right.append(np.asarray(match["dtMatches"][0])[counted] > 0)
                images.append(np.full(counted.sum(), image))
        scored = np.concatenate(scores)
        ranked = ranking(scored, np.concatenate(right)) if len(scored) else None
        classes.append((ranked, np.concatenate(images), present))

    drawn = []
    for counts in resamples(num_images, seed=seed):
        values = []
        for ranked, image_of, present in classes:
            if total := int(counts @ present):  # a class that no resampled image holds takes no part
                values.append(ranked.curve(counts=counts[image_of], total=total).at_points(101) if ranked else 0.0)
        if values:
            drawn.append(float(np.mean(values)))
    return spread(drawn)
