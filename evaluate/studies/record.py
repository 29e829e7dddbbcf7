"""A finished cell on disk: one small JSON file with all that tables, intervals and pages are made of."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.studies.cell import Cell
from genrep.shards import atomic
from genrep.shards.errors import DataError

FORMAT = "genrep-cell/1"
CELLS = "cells"

PROBES = ("full probe", "10 labels a class", "20-NN")
SHIFTS = {"none": "clean", "affine": "affine"}
MEASURES = tuple(f"{probe}, {shift}" for shift in SHIFTS.values() for probe in PROBES)
# what separates encoders; the full probe does not: an untrained convolution wins it
TELLING = tuple(measure for measure in MEASURES if not measure.startswith(PROBES[0]))

MOST_IMAGES = 2**24  # that a test part may have: a record from elsewhere cannot fill the memory


@dataclass(frozen=True)
class Record:
    """What is known of a finished cell.

    Attributes:
        content: The whole file.
        name: Of the cell.
    """

    name: str
    content: Mapping[str, Any]

    def top1(self, measure: str) -> float:
        """Fraction of the test images; the mean over draws of labels."""
        return float(self.content["scores"][measure]["encoder"]["top1"])

    def floors(self, measure: str) -> dict[str, float]:
        scores = self.content["scores"][measure]
        return {name: float(score["top1"]) for name, score in scores.items() if name != "encoder"}

    def held_out(self, measures: tuple[str, ...] = TELLING) -> float:
        """Mean over measures of the fraction of held-out training images: for choices."""
        return float(np.mean([self.content["held_out"][measure] for measure in measures]))

    def right(self, measure: str) -> NDArray[np.float64]:
        """Of each test image (N,) the share of draws that were right."""
        packed = self.content["right"][measure]
        unpacking = zlib.decompressobj()
        counts = unpacking.decompress(base64.b64decode(packed["counts"]), MOST_IMAGES)
        if not unpacking.eof:
            raise ValueError(f"{measure}: counts of more than {MOST_IMAGES:,} images, or cut off")
        return np.frombuffer(counts, np.uint8) / packed["draws"]


def pack(right: NDArray[np.int64], *, draws: int) -> dict[str, Any]:
    """Counts (N,) of right draws, each 0..draws <= 255, as text: zlib over bytes, base64."""
    assert draws < 256
    compressed = zlib.compress(right.astype(np.uint8).tobytes(), 9)
    return {"draws": draws, "counts": base64.b64encode(compressed).decode()}


class Records:
    """The finished cells in a folder, read once each."""

    def __init__(self, results: Path, *, data: str) -> None:
        self.folder = results / CELLS
        self._data = data
        self._read: dict[Cell, Record] = {}

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"

    def __contains__(self, cell: Cell) -> bool:
        return cell in self._read or self.path(cell).exists()

    def __getitem__(self, cell: Cell) -> Record:
        """The record of a finished cell.

        Raises:
            DataError: If it cannot be read, or is one of other evaluation data.
        """
        if cell not in self._read:
            path = self.path(cell)
            try:
                content = json.loads(path.read_text())
                record = Record(cell.name, content)
                data = content["data"]
                for measure in MEASURES:
                    record.top1(measure), record.right(measure), record.held_out((measure,))
            except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
                raise DataError(f"{path} cannot be read ({error!r}): remove it to have this cell done again") from error
            if data != self._data:
                raise DataError(
                    f"{path} was measured on {data}, not {self._data}: choose another --out, or that --data"
                )
            self._read[cell] = record
        return self._read[cell]


def write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic.reported(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_stale(path.parent)
    atomic.write(path, json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")
