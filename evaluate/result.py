"""A number, how far it may be off, what an untrained encoder reaches, and where it all came from."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.draws import Labels
from genrep.evaluate.interval import Interval, sampling, spread, wilson
from genrep.shards import atomic
from genrep.shards.errors import DataError

FORMAT = "genrep-result/1"


@dataclass(frozen=True)
class Score:
    """How well one encoder did.

    Attributes:
        top1: Fraction of test images whose class is right; the mean over draws if there are several.
        interval: 95 %: of the test sample (``wilson``), or where the middle 95 % of draws lie (``draws``);
            of the test sample of several fits (``sampling``).
        per_class: Class name -> fraction.
        feature_width: F.
        settings: Chosen or fixed.
        test_interval: 95 %, of the test sample alone, the fits staying as they are; equal to a ``wilson`` interval.
    """

    top1: float
    interval: Interval
    interval_kind: Literal["wilson", "draws", "sampling"]
    per_class: dict[str, float]
    feature_width: int
    settings: dict[str, Any]
    test_interval: Interval

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Score":
        intervals = {name: tuple(fields[name]) for name in ("interval", "test_interval")}
        return cls(**{**fields, **intervals})


@dataclass(frozen=True)
class Result:
    """One measurement; :func:`write_result` turns it into a ``result.json``.

    Attributes:
        measure: ``linear``, ``linear-genrep`` or ``knn``.
        score: Of the trained encoder.
        floors: Name -> score, of encoders that learned nothing.
        data: Name of the data set, as in ``--data``.
        data_sha256: Of its images and labels.
        num_images: Part -> how many.
        shift: ``none`` or ``affine``.
        seed: Of the label draws.
        labels_per_class: What each fit saw: a number, a share such as ``10%``, None for all labels.
        checkpoint: sha256 of the checkpoint file.
        checkpoint_path: As it was given.
        training: The config of the run.
        recipe: sha256 of the recipe of its training set, where the config tells.
        command: What was typed; None from Python.
        right: int64 (N,), how many draws (of one where there are none) were right on each test image, so that a
            difference between two encoders can be paired by image; not in the ``result.json``.
        held_out_top1: Of the trained encoder on held-out training images, for choices between encoders; the probe's
            own settings were chosen on them too.  Not in the ``result.json``.
        dtype: What the networks computed in.
    """

    measure: str
    score: Score
    floors: dict[str, Score]
    data: str
    data_sha256: str
    num_images: dict[str, int]
    shift: str
    seed: int
    labels_per_class: Labels
    checkpoint: str
    checkpoint_path: str
    training: dict[str, Any]
    recipe: str | None
    command: str | None
    right: NDArray[np.int64] = field(compare=False, repr=False)
    held_out_top1: float
    dtype: str = "float32"

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        del fields["right"], fields["held_out_top1"]
        score = fields.pop("score")
        unit = f"fraction of {self.num_images['test']} test images"
        mean = {"mean_per_class": sum(self.score.per_class.values()) / len(self.score.per_class)}
        return {"format": FORMAT, "measure": fields.pop("measure"), "unit": unit, **score, **mean, **fields}


def score(
    predictions: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    *,
    feature_width: int,
    settings: dict[str, Any],
    drawn: bool,
) -> Score:
    """Compare predictions (D, N) of D draws with labels (N,); without draws D is 1."""
    right = predictions == labels
    top1 = float(right.mean())
    test_interval = sampling(right.mean(0)) if drawn else wilson(int(right.sum()), len(labels))
    interval = spread(right.mean(1)) if drawn else test_interval
    per_class = {name: float(right[:, labels == label].mean()) for label, name in enumerate(class_names)}
    kind: Literal["draws", "wilson"] = "draws" if drawn else "wilson"
    return Score(top1, interval, kind, per_class, feature_width, settings, test_interval)


def write_result(result: Result, path: Path) -> None:
    """Write ``result`` as JSON; the file appears whole or not at all.

    Raises:
        ValueError: If a number is not finite, which JSON cannot say.
        DataError: If it cannot be written.
    """
    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    with atomic.reported(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, text.encode() + b"\n")


def write_score(score: Score, path: Path) -> None:
    """Keep a floor's score.

    Raises:
        DataError: If it cannot be written.
    """
    with atomic.reported(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, json.dumps(dataclasses.asdict(score), allow_nan=False).encode())


def read_score(path: Path) -> Score:
    """A floor's score that was kept.

    Raises:
        DataError: If it is damaged.
    """
    try:
        return Score.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}): remove it to measure this floor again") from error
