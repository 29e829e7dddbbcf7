"""A study: rows of a table, each with a setting or the best of several; which cells it needs, in what order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from genrep.evaluate.studies.bootstrap import Estimate
from genrep.evaluate.studies.cell import Cell, Setting
from genrep.evaluate.studies.record import Record

CHOICE_SEEDS = 2


class Finished(Protocol):
    """The records that are there."""

    def __contains__(self, cell: Cell) -> bool: ...

    def __getitem__(self, cell: Cell) -> Record: ...


def _same(setting: Setting) -> Setting:
    return setting


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: What the table calls it.
        candidates: One setting, or several of which the best on held-out training images stands for the row.
        seeds: How many, from 0; rows of a study are paired by seed.
        group: Of a curve that the row is a point of.
        x: Where on the curve.
        derive: From the chosen setting to that of the row, such as one of more samples.
        primary: Part of the contrast that was stated before running; its cells come first.
    """

    name: str
    candidates: tuple[Setting, ...]
    seeds: int
    group: str = ""
    x: float | None = None
    derive: Callable[[Setting], Setting] = _same
    primary: bool = False

    def choice_cells(self) -> list[Cell]:
        """What must be known before the row's setting is."""
        if len(self.candidates) == 1:
            return []
        return [Cell(setting, seed) for seed in range(CHOICE_SEEDS) for setting in self.candidates]

    def chosen(self, finished: Finished) -> Setting | None:
        """The setting of the row; None while cells of the choice are missing.

        It is the candidate with the highest held-out number (mean over telling measures and the seeds of the choice),
        the first of equals. No number of a test image has a part in it.
        """
        if not all(cell in finished for cell in self.choice_cells()):
            return None
        best = self.candidates[0]
        if len(self.candidates) > 1:
            means = [
                np.mean([finished[Cell(setting, seed)].held_out() for seed in range(CHOICE_SEEDS)])
                for setting in self.candidates
            ]
            best = self.candidates[int(np.argmax(means))]
        return self.derive(best)

    def cells(self, finished: Finished) -> list[Cell]:
        """Its cells by seed; none while the choice is open."""
        setting = self.chosen(finished)
        return [] if setting is None else [Cell(setting, seed) for seed in range(self.seeds)]


@dataclass(frozen=True)
class Contrast:
    """First minus second, two names of rows, paired by seed and test image."""

    first: str
    second: str
    primary: bool = False


def _nothing(differences: Mapping[tuple[str, str], Estimate]) -> list[str]:
    return []


@dataclass(frozen=True)
class Study:
    """A question and the rows that answer it.

    Attributes:
        x: What the curves of the rows are drawn over; empty if there are none.
        paper: Rows of the paper that ask the same: name, number, name of the row here that stands for it.
        paper_unit: Of those numbers, and where they are from.
        notes: What the reading must say first.
        conclude: Sentences from the differences, of the mean of the four that tell, by names of rows.
    """

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...] = ()
    x: str = ""
    paper: tuple[tuple[str, str, str], ...] = ()
    paper_unit: str = ""
    notes: tuple[str, ...] = ()
    conclude: Callable[[Mapping[tuple[str, str], Estimate]], list[str]] = _nothing

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def cells(self, finished: Finished) -> list[Cell]:
        """All cells known to be needed, most important first: primary rows; of each, choices, then seed after seed."""
        ordered: list[tuple[bool, int, int, Cell]] = []
        for number, row in enumerate(self.rows):
            ordered += [(not row.primary, -1, number, cell) for cell in row.choice_cells()]
            ordered += [(not row.primary, cell.seed, number, cell) for cell in row.cells(finished)]
        return list(dict.fromkeys(cell for *_, cell in sorted(ordered, key=lambda each: each[:3])))

    def open_rows(self, finished: Finished) -> list[Row]:
        """Rows whose setting is not chosen yet."""
        return [row for row in self.rows if row.chosen(finished) is None]

    def warnings(self, finished: Finished) -> list[str]:
        """What makes a curve over samples say less than it seems to."""
        if self.x != "samples":
            return []
        settings = [row.chosen(finished) or row.derive(row.candidates[0]) for row in self.rows]
        few = {setting.samples: setting for setting in settings if setting.passes < 4}
        return [
            f"{samples:,} samples are seen {setting.passes:.1f} times in {setting.steps} updates of "
            f"{setting.batch_size}: under 4 times, their number can hardly matter (--steps "
            f"{-(-4 * samples // setting.batch_size)} or more)"
            for samples, setting in sorted(few.items())
        ]
