"""The table of a study in Markdown: mean and range over seeds, and how far test images alone may move a number."""

from collections.abc import Sequence

from genrep.evaluate.studies.record import MEASURES, Record, Records
from genrep.evaluate.studies.study import Row, Study


def markdown(study: Study, records: Records, *, scale: str) -> str:
    """The rows that have a finished cell, then the floors."""
    rows = finished_rows(study, records)
    lines = [
        f"# {study.title}\n",
        f"{study.question} {scale}\n",
        "Top-1 in percent of real test images, which nothing was chosen on: mean over seeds (least to most). "
        "Where a row says how it was chosen, it was on held-out training images.\n",
        f"| top-1 % | seeds | {' | '.join(MEASURES)} |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for row, found in rows:
        numbers = [spread([each.top1(measure) for each in found]) for measure in MEASURES]
        lines.append(f"| {row.name}{choice(row, records)} | {len(found)} | {' | '.join(numbers)} |")
    if rows:
        first = rows[0][1][0]
        for floor in first.floors(MEASURES[0]):
            numbers = [f"{100 * first.floors(measure)[floor]:.1f}" for measure in MEASURES]
            lines.append(f"| {floor} | | {' | '.join(numbers)} |")
    lines += [f"\n{warning}" for warning in study.warnings(records)]
    missing = [cell for cell in study.cells(records) if cell not in records]
    if missing or study.open_rows(records):
        lines.append(f"\nNot finished: {len(missing)} cells known to be needed are missing.")
    return "\n".join(lines) + "\n"


def finished_rows(study: Study, records: Records) -> list[tuple[Row, list[Record]]]:
    """Rows that have finished cells, with these by seed."""
    rows = [(row, [records[cell] for cell in row.cells(records) if cell in records]) for row in study.rows]
    return [(row, found) for row, found in rows if found]


def choice(row: Row, records: Records) -> str:
    """Which of several settings stands for a row."""
    setting = row.chosen(records)
    if setting is None or len(row.candidates) == 1 or setting.source.std is None:
        return ""
    tried = ", ".join(f"{each.source.std:g}" for each in row.candidates)
    return f" (sigma {setting.source.std:g} of {tried})"


def spread(values: Sequence[float]) -> str:
    mean = f"{100 * sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"
