"""From the records of a study to what its report says: numbers, differences, curves, a plain reading."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.studies.bootstrap import DRAWS, Estimate, estimate, of_images
from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.laws import Growth, growth
from genrep.evaluate.studies.record import MEASURES, TELLING, Record, Records
from genrep.evaluate.studies.study import Contrast, Row, Study

MEAN = "mean of the four that tell"
ALL = (*MEASURES, MEAN)


@dataclass(frozen=True)
class RowFound:
    """A row with finished cells.

    Attributes:
        chosen: Which of several settings stands for it, and out of what; empty if it has one.
        cells: By seed.
        records: Theirs.
        held_out: Mean over seeds.
        numbers: Of each of ``ALL``.
    """

    row: Row
    chosen: str
    cells: tuple[Cell, ...]
    records: tuple[Record, ...]
    held_out: float
    numbers: dict[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """A contrast over the seeds that both rows have."""

    contrast: Contrast
    numbers: dict[str, Estimate]


@dataclass(frozen=True)
class Curve:
    """The points of a group, over ``x`` of their rows.

    Attributes:
        best: Index of the point that is best on held-out images.
        growth: Of each of ``ALL``; of curves over samples with two points or more.
    """

    group: str
    x: tuple[float, ...]
    rows: tuple[RowFound, ...]
    best: int
    growth: dict[str, Growth]


@dataclass(frozen=True)
class Analysis:
    """All that a report says.

    Attributes:
        floors: Name -> measure -> top-1.
        seed_deviation: Of each of ``ALL``, pooled over settings with two seeds or more; None where there are none.
        missing: Cells known to be needed.
        open: Names of rows whose setting is not chosen yet.
        reading: Sentences.
    """

    study: Study
    rows: tuple[RowFound, ...]
    floors: dict[str, dict[str, float]]
    differences: tuple[Difference, ...]
    curves: tuple[Curve, ...]
    seed_deviation: dict[str, float] | None
    missing: tuple[Cell, ...]
    open: tuple[str, ...]
    warnings: tuple[str, ...]
    reading: tuple[str, ...]


def analyse(study: Study, records: Records) -> Analysis:
    """What the finished cells say; no number of a test image has a part in any choice."""
    rows = tuple(found for row in study.rows if (found := _found(row, records)))
    by_name = {found.row.name: found for found in rows}
    differences = tuple(
        _difference(contrast, by_name[contrast.first], by_name[contrast.second])
        for contrast in study.contrasts
        if contrast.first in by_name and contrast.second in by_name
    )
    deviation = _seed_deviation(study, records)
    groups = dict.fromkeys(found.row.group for found in rows if found.row.group)
    curves = tuple(
        _curve(group, [found for found in rows if found.row.group == group], study, deviation) for group in groups
    )
    floors: dict[str, dict[str, float]] = {}
    if rows:
        first = rows[0].records[0]
        floors = {
            floor: {measure: first.floors(measure)[floor] for measure in MEASURES}
            for floor in first.floors(MEASURES[0])
        }
    return Analysis(
        study=study,
        rows=rows,
        floors=floors,
        differences=differences,
        curves=curves,
        seed_deviation=deviation,
        missing=tuple(cell for cell in study.cells(records) if cell not in records),
        open=tuple(row.name for row in study.open_rows(records)),
        warnings=tuple(study.warnings(records)),
        reading=tuple(_reading(study, rows, floors, differences, curves)),
    )


def right(record: Record, measure: str) -> NDArray[np.float64]:
    """Of each test image (N,) the share of draws that were right; of ``MEAN`` the mean over the telling measures."""
    if measure == MEAN:
        return np.asarray(np.mean([record.right(each) for each in TELLING], 0))
    return record.right(measure)


def choice(row: Row, records: Records) -> str:
    """Which of several settings stands for a row."""
    setting = row.chosen(records)
    if setting is None or len(row.candidates) == 1 or setting.source.std is None:
        return ""
    tried = ", ".join(f"{each.source.std:g}" for each in row.candidates)
    return f"sigma {setting.source.std:g} of {tried}"


def _found(row: Row, records: Records) -> RowFound | None:
    cells = tuple(cell for cell in row.cells(records) if cell in records)
    if not cells:
        return None
    found = tuple(records[cell] for cell in cells)
    return RowFound(
        row=row,
        chosen=choice(row, records),
        cells=cells,
        records=found,
        held_out=float(np.mean([record.held_out() for record in found])),
        numbers={measure: estimate([right(record, measure) for record in found]) for measure in ALL},
    )


def _difference(contrast: Contrast, first: RowFound, second: RowFound) -> Difference:
    """Paired by seed and test image."""
    seconds = {cell.seed: record for cell, record in zip(second.cells, second.records, strict=True)}
    pairs = [
        (record, seconds[cell.seed])
        for cell, record in zip(first.cells, first.records, strict=True)
        if cell.seed in seconds
    ]
    numbers = {
        measure: estimate([right(one, measure) - right(other, measure) for one, other in pairs])
        for measure in ALL
        if pairs
    }
    return Difference(contrast, numbers)


def _seed_deviation(study: Study, records: Records) -> dict[str, float] | None:
    """Standard deviation of a number over seeds, pooled over all settings of which two cells or more are finished."""
    by_setting: dict[str, list[Record]] = {}
    for cell in study.cells(records):
        if cell in records and cell.setting.method != "untrained":
            by_setting.setdefault(cell.setting.name, []).append(records[cell])
    several = [each for each in by_setting.values() if len(each) > 1]
    if not several:
        return None
    freedom = sum(len(each) - 1 for each in several)

    def pooled(measure: str) -> float:
        squares = [np.var([right(one, measure).mean() for one in each]) * len(each) for each in several]
        return float(np.sqrt(np.sum(squares) / freedom))

    return {measure: pooled(measure) for measure in ALL}


def _curve(group: str, rows: Sequence[RowFound], study: Study, deviation: dict[str, float] | None) -> Curve:
    rows = sorted(rows, key=lambda found: found.row.x or 0)
    x = tuple(float(found.row.x or 0) for found in rows)
    best = int(np.argmax([found.held_out for found in rows]))
    laws = {}
    if study.x == "samples" and len(rows) > 1:
        laws = {measure: _growth(x, rows, measure, deviation) for measure in ALL}
    return Curve(group, x, tuple(rows), best, laws)


def _growth(x: Sequence[float], rows: Sequence[RowFound], measure: str, deviation: dict[str, float] | None) -> Growth:
    """Test images are drawn anew for all points together; training noise is the pooled deviation over seeds."""
    shares = [[right(record, measure) for record in found.records] for found in rows]
    draws = np.stack([of_images(each) for each in shares], 1)
    if deviation is not None:
        rng = np.random.Generator(np.random.PCG64(0))
        draws = draws + rng.normal(size=(DRAWS, len(rows))) * [deviation[measure] / len(each) ** 0.5 for each in shares]
    return growth(np.array(x), np.array([found.numbers[measure].mean for found in rows]), draws)


def _reading(
    study: Study,
    rows: Sequence[RowFound],
    floors: dict[str, dict[str, float]],
    differences: Sequence[Difference],
    curves: Sequence[Curve],
) -> list[str]:
    """What the numbers say, and where they say nothing."""
    lines = list(study.notes)
    lines += study.conclude(
        {(each.contrast.first, each.contrast.second): each.numbers[MEAN] for each in differences if each.numbers}
    )
    lines += [_primary(each) for each in differences if each.contrast.primary and each.numbers]
    lines += _exploratory([each for each in differences if not each.contrast.primary and each.numbers])
    for curve in curves:
        if curve.growth:
            lines.append(f"{curve.group}, {MEAN}: {curve.growth[MEAN].said()}")
        elif study.x == "sigma" and len(curve.rows) > 2:
            lines.append(_peak(curve, study.x))
    above: dict[str, list[str]] = {}
    for measure in MEASURES if rows else ():
        highest = max(floors, key=lambda floor: floors[floor][measure])
        if all(found.numbers[measure].mean < floors[highest][measure] for found in rows):
            above.setdefault(highest.removeprefix("floor: "), []).append(measure)
    lines += [
        f"The floor {floor} is above every encoder in: {'; '.join(measures)}. These columns do not show learning."
        for floor, measures in above.items()
    ]
    return lines


def _primary(difference: Difference) -> str:
    """By each telling measure, and in how many it is clear."""
    numbers = {measure: difference.numbers[measure] for measure in TELLING}
    told = "; ".join(f"{measure} {signed(number)}" for measure, number in numbers.items())
    clear = [number for number in numbers.values() if number.clear]
    higher = sum(number.mean > 0 for number in clear)
    verdicts = [f"higher in {higher}"] * bool(higher) + [f"lower in {len(clear) - higher}"] * (higher < len(clear))
    verdict = f"The first is {' and '.join(verdicts)} of {len(numbers)}." if clear else "Not told apart from 0."
    return f"Primary contrast, {_seeds(difference)}: {_named(difference)}: {told}. {verdict}"


def _exploratory(differences: Sequence[Difference]) -> list[str]:
    """All in three sentences: where the first is higher, lower, and where neither is told."""
    groups: dict[str, list[str]] = {"the first is higher": [], "the first is lower": [], "not told apart from 0": []}
    for each in differences:
        number = each.numbers[MEAN]
        sign = "the first is higher" if number.mean > 0 else "the first is lower"
        verdict = sign if number.clear else "not told apart from 0"
        groups[verdict].append(f"{_named(each)} {signed(number)}, {_seeds(each)}")
    return [f"Exploratory, {MEAN}, {verdict}: {'; '.join(told)}." for verdict, told in groups.items() if told]


def _named(difference: Difference) -> str:
    return f"{difference.contrast.first} minus {difference.contrast.second}"


def _seeds(difference: Difference) -> str:
    number = len(difference.numbers[MEAN].by_seed)
    return f"{number} seeds" if number > 1 else "one seed (interval of test images alone)"


def _peak(curve: Curve, x: str) -> str:
    """Whether accuracy falls to both sides of the point that is best on held-out images."""
    best = curve.rows[curve.best]
    text = f"{curve.group}: best on held-out images at {x} {curve.x[curve.best]:g}"
    text += f", {100 * best.numbers[MEAN].mean:.1f} on test images ({MEAN})"
    if curve.best in (0, len(curve.rows) - 1):
        return f"{text}; that is an end of the range, so an inverse U was not seen."
    ends = [_difference(Contrast("", ""), best, curve.rows[end]).numbers[MEAN] for end in (0, -1)]
    told = f"above the weakest by {signed(ends[0])}, above the strongest by {signed(ends[1])}"
    both = all(end.interval[0] > 0 for end in ends)
    return f"{text}; {told}: {'an inverse U' if both else 'an inverse U is not shown'}."


def signed(number: Estimate) -> str:
    """Points with the 95 % interval."""
    low, high = number.interval
    return f"{100 * number.mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
