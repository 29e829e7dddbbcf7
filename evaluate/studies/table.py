"""A study in tables: Markdown, CSV, LaTeX."""

import csv
import io
from collections.abc import Sequence

from genrep.evaluate.studies.analysis import ALL, MEAN, Analysis, RowFound, signed
from genrep.evaluate.studies.bootstrap import Estimate
from genrep.evaluate.studies.record import MEASURES


def markdown(analysis: Analysis, *, scale: str) -> str:
    """The question, the reading, the rows with the floors, the differences."""
    study = analysis.study
    lines = [
        f"# {study.title}\n",
        f"{study.question} {scale}\n",
        f"Made by `genrep-study {study.name}` from the files in `cells/`. Top-1 in percent of real test images, on "
        "which nothing was chosen: mean over seeds (least to most) ± what the draw of test images alone may move it by "
        "(95 %). A sigma out of several was chosen on held-out training images.\n",
    ]
    lines += [f"- {sentence}" for sentence in analysis.reading]
    lines += [
        "",
        f"| top-1 % | seeds | {' | '.join(MEASURES)} |",
        "|---|---|" + "---|" * len(MEASURES),
        *(
            _row([title(found), str(len(found.cells)), *(number(found.numbers[m]) for m in MEASURES)])
            for found in analysis.rows
        ),
        *(_row([name, "", *(f"{100 * values[m]:.1f}" for m in MEASURES)]) for name, values in analysis.floors.items()),
    ]
    if analysis.differences:
        lines += [
            "\nDifferences in points, paired by seed and test image, with 95 % intervals over both:\n",
            f"| first minus second | seeds | {' | '.join(ALL)} |",
            "|---|---|" + "---|" * len(ALL),
            *(
                _row(
                    [
                        f"{each.contrast.first} minus {each.contrast.second}{' (primary)' * each.contrast.primary}",
                        str(len(each.numbers[MEAN].by_seed)),
                        *(signed(each.numbers[measure]) for measure in ALL),
                    ]
                )
                for each in analysis.differences
                if each.numbers
            ),
        ]
    if analysis.study.paper:
        lines += [
            f"\nThe paper asks the same at its own scale: {study.paper_unit}. "
            "Only the order of rows can be compared.\n",
            f"| row of the paper | there | here, {MEASURES[0]} | here, {MEAN} |",
            "|---|---|---|---|",
            *(_row(words) for words in paper_rows(analysis)),
        ]
    lines += [f"\n{warning}" for warning in analysis.warnings]
    if unfinished(analysis):
        lines.append(f"\n{unfinished(analysis)}")
    return "\n".join(lines) + "\n"


def paper_rows(analysis: Analysis) -> list[tuple[str, str, str, str]]:
    """Name and number of each row of the paper, and what its row here has: full probe, and mean of the four."""
    here = {found.row.name: found.numbers for found in analysis.rows}
    rows = []
    for name, told, toy in analysis.study.paper:
        numbers = [f"{100 * here[toy][measure].mean:.1f}" if toy in here else "" for measure in (MEASURES[0], MEAN)]
        rows.append((name, told, numbers[0], numbers[1]))
    return rows


def unfinished(analysis: Analysis) -> str:
    """What is missing, in a sentence; empty if nothing is."""
    if not (analysis.missing or analysis.open):
        return ""
    return f"Not finished: {len(analysis.missing)} cells known to be needed are missing" + (
        f", and the setting of {len(analysis.open)} rows is not chosen yet." if analysis.open else "."
    )


def title(found: RowFound) -> str:
    return found.row.name + (f" ({found.chosen})" if found.chosen else "")


def number(estimate: Estimate) -> str:
    """Mean, range over seeds, and apart from it what test images alone may move."""
    return f"{spread(estimate.by_seed)} ± {100 * estimate.test_error:.1f}"


def spread(values: Sequence[float]) -> str:
    mean = f"{100 * sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def numbers_csv(analysis: Analysis) -> str:
    """A line a row and measure; fractions."""
    head = ("row", "group", "x", "chosen", "measure", "seeds", "mean", "seed_low", "seed_high", "test_error", "low")
    lines = [
        (
            found.row.name, found.row.group, found.row.x, found.chosen, measure, len(found.cells), value.mean,
            min(value.by_seed), max(value.by_seed), value.test_error, *value.interval,
            " ".join(cell.name for cell in found.cells),
        )
        for found in analysis.rows
        for measure, value in found.numbers.items()
    ]  # fmt: skip
    return _csv((*head, "high", "cells"), lines)


def differences_csv(analysis: Analysis) -> str:
    """A line a contrast and measure; fractions."""
    lines = [
        (
            each.contrast.first, each.contrast.second, each.contrast.primary, measure, len(value.by_seed), value.mean,
            *value.interval, " ".join(f"{of_seed:.6f}" for of_seed in value.by_seed),
        )
        for each in analysis.differences
        for measure, value in each.numbers.items()
    ]  # fmt: skip
    return _csv(("first", "second", "primary", "measure", "seeds", "mean", "low", "high", "by_seed"), lines)


def growth_csv(analysis: Analysis) -> str:
    """A line a curve and measure: what is known of its law; accuracies are fractions."""
    lines = [
        (
            curve.group, measure, found.slope[0], *found.slope[1], found.flat, found.law or "not identified",
            *(found.weights[law] for law in found.weights), *found.exponents["power"][1],
            *found.exponents["saturating"][1], found.next_size[0], *found.next_size[1], found.supported, found.reason,
        )
        for curve in analysis.curves
        for measure, found in curve.growth.items()
    ]  # fmt: skip
    head = (
        "group", "measure", "slope_per_decade", "slope_low", "slope_high", "flat", "law", "weight_logarithmic",
        "weight_power", "weight_saturating", "power_c_low", "power_c_high", "saturating_c_low", "saturating_c_high",
        "next_point_samples", "next_point_low", "next_point_high", "supported", "reason",
    )  # fmt: skip
    return _csv(head, lines)


def latex(analysis: Analysis) -> str:
    """A tabular for the package booktabs."""
    head = " & ".join(_escaped(measure) for measure in MEASURES)
    lines = [
        f"% made by genrep-study {analysis.study.name}: top-1 in percent, mean over seeds (least--most)",
        rf"\begin{{tabular}}{{lr{'l' * len(MEASURES)}}}",
        r"\toprule",
        rf"& seeds & {head} \\",
        r"\midrule",
    ]
    for found in analysis.rows:
        values = [spread(found.numbers[measure].by_seed).replace(" to ", "--") for measure in MEASURES]
        lines.append(rf"{_escaped(title(found))} & {len(found.cells)} & {' & '.join(values)} \\")
    lines.append(r"\midrule")
    for name, floor in analysis.floors.items():
        values = [f"{100 * floor[measure]:.1f}" for measure in MEASURES]
        lines.append(rf"{_escaped(name)} & & {' & '.join(values)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    for letter in "&%$#_{}":
        text = text.replace(letter, "\\" + letter)
    return text.replace("T\\_x", "$T_x$").replace("T\\_z", "$T_z$")


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _csv(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()
