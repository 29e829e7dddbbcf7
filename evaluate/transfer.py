"""What a transfer task measured, with its floors and where it came from: for people and as ``result.json``."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrep.evaluate.interval import Interval
from genrep.evaluate.result import FORMAT
from genrep.evaluate.table import aligned
from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.train.checkpoint import LoadedBackbone

NAMES = {
    "map_11_point": "mAP (11 points)",
    "map_area": "mAP (area)",
    "mean_per_class": "mean per class",
    "top1": "top-1",
    "ap50": "AP50",
    "ap": "AP",
    "ap75": "AP75",
    "ap50_11_point": "AP50 (11 points)",
}


@dataclass(frozen=True)
class TransferScore:
    """How well one encoder did.

    Attributes:
        numbers: Name -> fraction; the first is the headline.
        interval: 95 % of the headline, for drawing the test images anew (``bootstrap``), the fits staying as they are.
        per_class: Class name -> name -> fraction, or a setting chosen for the class.
        feature_width: F.
        settings: Chosen or fixed.
    """

    numbers: dict[str, float]
    interval: Interval
    per_class: dict[str, dict[str, float]]
    feature_width: int
    settings: dict[str, Any]

    @property
    def headline(self) -> float:
        return next(iter(self.numbers.values()))

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {**fields.pop("numbers"), "interval_kind": "bootstrap", **fields}


@dataclass(frozen=True)
class TransferResult:
    """One measurement; :func:`write_transfer` turns it into a ``result.json``.

    Attributes:
        measure: ``svm`` or ``detect``.
        title: The task in words.
        unit: Of all numbers.
        score: Of the trained encoder.
        floors: Name -> score, of encoders that learned nothing.
        data: Name of the data set, as in ``--data``.
        data_sha256: Of its images and labels.
        num_images: Part -> how many.
        seed: Of all draws.
        checkpoint: sha256 of the checkpoint file.
        checkpoint_path: As it was given.
        training: The config of the run.
        recipe: sha256 of the recipe of its training set, where the config tells.
        command: What was typed; None from Python.
        dtype: What the networks computed in.
    """

    measure: str
    title: str
    unit: str
    score: TransferScore
    floors: dict[str, TransferScore]
    data: str
    data_sha256: str
    num_images: dict[str, int]
    seed: int
    checkpoint: str
    checkpoint_path: str
    training: dict[str, Any]
    recipe: str | None
    command: str | None
    dtype: str

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["title"]
        first = {"format": FORMAT, "measure": fields.pop("measure"), "unit": fields.pop("unit")}
        floors = {name: score.to_json() for name, score in fields.pop("floors").items()}
        return {**first, **fields.pop("score").to_json(), "floors": floors, **fields}


def provenance(loaded: LoadedBackbone, checkpoint: Path | str) -> dict[str, Any]:
    """Fields of a result that tell of the encoder."""
    return {
        "checkpoint": loaded.sha256,
        "checkpoint_path": str(checkpoint),
        "training": loaded.config,
        "recipe": loaded.config.get("recipe_sha256"),
    }


def write_transfer(result: TransferResult, path: Path) -> None:
    """Write ``result`` as JSON; the file appears whole or not at all.

    Raises:
        ValueError: If a number is not finite, which JSON cannot say.
        DataError: If it cannot be written.
    """
    _write_json(path, result.to_json(), indent=1)


def transfer_table(result: TransferResult) -> str:
    """Title, one aligned row for the encoder and each floor, and a line for what wins against the encoder."""
    scores = {"this encoder": result.score, **{f"floor: {name}": score for name, score in result.floors.items()}}
    names = list(result.score.numbers)
    rows = [["%", NAMES[names[0]], "95 %, test images", *(NAMES[name] for name in names[1:]), "features"]]
    for name, score in scores.items():
        first, *others = (f"{100 * score.numbers[number]:.1f}" for number in names)
        low, high = score.interval
        rows.append([name, first, f"{100 * low:.1f} to {100 * high:.1f}", *others, str(score.feature_width)])
    winners = [
        f"{name} wins by {100 * (floor.headline - result.score.headline):.1f} points: "
        "this number does not show learning"
        for name, floor in result.floors.items()
        if floor.headline >= result.score.headline
    ]
    title = f"{result.data}, {result.title}, {result.num_images['test']} test images"
    return "\n".join([title, *aligned(rows), *winners])


def kept_score(file: Path, measure: Callable[[], TransferScore]) -> TransferScore:
    """A floor's score: from ``file`` if an earlier measurement left it there, else measured and left there.

    Raises:
        DataError: If the file cannot be read or written.
    """
    if not file.exists():
        _write_json(file, dataclasses.asdict(measure()))
    try:
        fields = json.loads(file.read_text())
        low, high = fields.pop("interval")
        return TransferScore(interval=(low, high), **fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error!r}): remove it to measure this floor again") from error


def _write_json(path: Path, value: dict[str, Any], *, indent: int | None = None) -> None:
    text = json.dumps(value, indent=indent, allow_nan=False)
    with atomic.reported(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, text.encode() + b"\n")
