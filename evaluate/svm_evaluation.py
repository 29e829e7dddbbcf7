"""The measurement by support vector machines: features of the checkpoint and of the floors, test labels last."""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.evaluate.average_precision import ranking
from genrep.evaluate.data import Part, RealData, Source
from genrep.evaluate.data.part import SIDE
from genrep.evaluate.encoders import load_encoder, run_folder
from genrep.evaluate.features import Encoder, Progress, backbone_encoder, key_of, part_features
from genrep.evaluate.floors import floors
from genrep.evaluate.interval import spread
from genrep.evaluate.resamples import resamples
from genrep.evaluate.svm import Svms, fit_multi_label, fit_single_label, mean_per_class
from genrep.evaluate.transfer import TransferResult, TransferScore, kept_score, provenance
from genrep.evaluate.voc import VocSplit, open_voc
from genrep.shards.errors import DataError

Difficult = Literal["ignore", "positive"]


@dataclass(frozen=True)
class MultiLabelData:
    """Images that hold several classes each.

    Attributes:
        fit, test: Their labels are int64 (N, C): 1, -1, and 0 for what takes no part in a class.
        sha256: Of all images and labels.
        side: As of :class:`~genrep.evaluate.data.RealData`.
    """

    name: str
    class_names: tuple[str, ...]
    sha256: str
    fit: Part
    test: Part
    side: int = SIDE


def open_multi_label(root: Path, *, splits: str = "trainval,test", difficult: Difficult = "ignore") -> MultiLabelData:
    """Images in VOC's layout, as :func:`~genrep.evaluate.voc.open_voc` finds them.

    Args:
        difficult: An image whose only objects of a class are difficult takes no part in this class (as in VOC's own
            evaluation), or holds it (as for the paper's authors).

    Raises:
        DataError: If they cannot be read, or a class is in no image to report on.
    """
    fit, test = open_voc(root, splits)
    digest = hashlib.sha256()

    def part(split: VocSplit, source: Source) -> Part:
        labels = np.where(split.labels == 0, 1, split.labels) if difficult == "positive" else split.labels
        digest.update(split.images.hash())
        digest.update(labels.tobytes())
        return Part(source, np.arange(len(labels)), labels, lambda rows: split.images.read(np.asarray(rows)))

    fit_part, test_part = part(fit, "train"), part(test, "test")
    if missing := [name for name, labels in zip(test.class_names, test_part.labels.T, strict=True) if max(labels) < 1]:
        raise DataError(f"{root}: no image of {test.name} holds {missing[0]!r}: report on another split")
    return MultiLabelData(f"voc:{root}", fit.class_names, digest.hexdigest(), fit_part, test_part)


def evaluate_svm(
    checkpoint: Path | str,
    data: RealData | MultiLabelData,
    *,
    crop: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress = lambda what, done, total: None,
    command: str | None = None,
) -> TransferResult:
    """Measure a frozen encoder by linear machines on its features of unit length, beside the floors.

    Args:
        checkpoint: As :func:`~genrep.evaluate.encoders.load_encoder` takes it.
        data: With one class an image: of :func:`genrep.evaluate.data.open_data`. With several: of
            :func:`open_multi_label`.
        crop: Side of the centre crop, px, in place of the encoder's own; the short side before it goes along.
        seed: Of folds and resampled test images.
        cache: Keeps features and the floors' scores.  Left out: ``evaluation/cache`` in the run's folder.
        dtype: What the networks compute in, as for :func:`~genrep.evaluate.features.features_of`.
        progress: Called with (what, done, total).
        command: What the user typed, for the record.

    Raises:
        DataError: If the checkpoint, the data or the cache cannot be read, a class has too few images, or features are
            not finite.
    """
    loaded = load_encoder(checkpoint)
    if crop is not None:
        resize = round(crop * loaded.resize_size / loaded.image_size)
        loaded = dataclasses.replace(loaded, image_size=crop, resize_size=resize)
    cache = cache or run_folder(checkpoint) / "evaluation" / "cache"
    multi = isinstance(data, MultiLabelData)

    def score_of(encoder: Encoder) -> TransferScore:
        key = key_of(encoder.identity, data.sha256, "none", dtype)

        def unit_features(which: str) -> NDArray[np.float64]:
            kept = cache / "features" / f"{key}-{which}" if encoder.worth_keeping else None
            features = part_features(
                encoder, getattr(data, which), shift="none", kept=kept, device=device, progress=progress, dtype=dtype
            )
            return torch.nn.functional.normalize(features.double()).numpy()

        def told(what: str, done: int, total: int) -> None:
            progress(f"{encoder.name}: {what}", done, total)

        features = unit_features("fit")
        if isinstance(data, MultiLabelData):
            svms = fit_multi_label(features, data.fit.labels, data.class_names, seed=seed, progress=told)
            return score_multi_label(svms, unit_features("test"), data, seed=seed)
        svms = fit_single_label(
            features,
            data.fit.labels,
            unit_features("held_out"),
            data.held_out.labels,
            num_classes=len(data.class_names),
            progress=told,
        )
        return score_single_label(svms, unit_features("test"), data, seed=seed)

    score = score_of(backbone_encoder("backbone", loaded, loaded.module, {"checkpoint": loaded.sha256}))
    floor_scores = {}
    for floor in floors(loaded, side=data.side):
        file = cache / "floors" / f"{key_of(floor.identity, data.sha256, dtype, 'svm', seed)}.json"
        floor_scores[floor.name] = kept_score(file, partial(score_of, floor))
    parts = ("fit", "test") if multi else ("fit", "held_out", "test")
    num_images = {which: len(getattr(data, which).labels) for which in parts}
    return TransferResult(
        measure="svm",
        title="linear SVM a class",
        unit="mean over classes of the average precision" if multi else f"fraction of {num_images['test']} test images",
        score=score,
        floors=floor_scores,
        data=data.name,
        data_sha256=data.sha256,
        num_images=num_images,
        seed=seed,
        **provenance(loaded, checkpoint),
        command=command,
        dtype=dtype,
    )


def score_multi_label(svms: Svms, features: NDArray[np.float64], data: MultiLabelData, *, seed: int) -> TransferScore:
    """Average precisions on the test part: at 11 points (VOC 2007's measure) and the area (the authors')."""
    scores, labels = svms.scores(features), data.test.labels
    rows = [np.flatnonzero(column) for column in labels.T]
    rankings = [ranking(scores[some, label], labels[some, label] == 1) for label, some in enumerate(rows)]
    per_class = {
        name: {"ap_11_point": curve.at_points(11), "ap_area": curve.area, "cost": cost}
        for name, curve, cost in zip(data.class_names, (each.curve() for each in rankings), svms.costs, strict=True)
    }
    numbers = {
        f"m{name}": float(np.mean([of[name] for of in per_class.values()])) for name in ("ap_11_point", "ap_area")
    }
    drawn = []
    for counts in resamples(len(labels), seed=seed):
        curves = [each.curve(counts=counts[some]) for each, some in zip(rankings, rows, strict=True)]
        if held := [curve.at_points(11) for curve in curves if curve.total]:  # classes that a resampled image holds
            drawn.append(float(np.mean(held)))
    settings = {
        "cost_choice": "area under the interpolated curve, 3 folds of the fit part",
        "tried": {name: _written(tried) for name, tried in zip(data.class_names, svms.tried, strict=True)},
    }
    return TransferScore(numbers, spread(drawn), per_class, features.shape[1], settings)


def score_single_label(svms: Svms, features: NDArray[np.float64], data: RealData, *, seed: int) -> TransferScore:
    """Mean per-class accuracy (Caltech-101's measure) and top-1 on the test part."""
    labels = data.test.labels
    right = svms.scores(features).argmax(1) == labels
    numbers = {"mean_per_class": mean_per_class(right, labels), "top1": float(right.mean())}
    per_class = {name: {"top1": float(right[labels == label].mean())} for label, name in enumerate(data.class_names)}
    drawn = [mean_per_class(right, labels, counts) for counts in resamples(len(labels), seed=seed)]
    settings = {
        "cost": svms.costs[0],
        "cost_choice": "mean per-class accuracy on the held-out part",
        "tried": _written(svms.tried[0]),
    }
    return TransferScore(numbers, spread(drawn), per_class, features.shape[1], settings)


def _written(tried: dict[float, float]) -> dict[str, float]:
    return {f"{cost:.3g}": round(value, 6) for cost, value in sorted(tried.items())}
