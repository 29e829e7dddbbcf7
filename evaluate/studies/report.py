"""The report of a study: tables, plots, and one page of HTML that needs nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrep.evaluate.studies.analysis import ALL, MEAN, Analysis, RowFound, signed
from genrep.evaluate.studies.plots import Plot, plots
from genrep.evaluate.studies.record import CELLS, MEASURES, Record
from genrep.evaluate.studies.table import (
    differences_csv,
    growth_csv,
    latex,
    markdown,
    number,
    numbers_csv,
    paper_rows,
    title,
    unfinished,
)
from genrep.shards import atomic
from genrep.shards.frame import fill_page

TEMPLATE = "report.html"


def write_report(analysis: Analysis, folder: Path, *, scale: str) -> str:
    """``table.md``, ``report.html``, plots and further tables into a folder; returns the Markdown.

    Raises:
        DataError: If they cannot be written.
    """
    pictures = plots(analysis)
    text = markdown(analysis, scale=scale)
    content = {
        "table.md": text.encode(),
        "numbers.csv": numbers_csv(analysis).encode(),
        "table.tex": latex(analysis).encode(),
        "report.html": page(analysis, pictures, scale=scale),
    }
    if analysis.differences:
        content["differences.csv"] = differences_csv(analysis).encode()
    if any(curve.growth for curve in analysis.curves):
        content["growth.csv"] = growth_csv(analysis).encode()
    for plot in pictures:
        content |= {f"{plot.name}.svg": plot.svg, f"{plot.name}.png": plot.png}
    with atomic.reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, each in content.items():
        atomic.write(folder / name, each)
    return text


def page(analysis: Analysis, pictures: list[Plot], *, scale: str) -> bytes:
    """The page; whatever records say of themselves is text in it, never markup."""
    from markupsafe import Markup

    numbers = {found.row.name: anchor for anchor, found in _anchored(analysis)}
    return fill_page(
        __package__,
        TEMPLATE,
        title=analysis.study.title,
        name=analysis.study.name,
        question=analysis.study.question,
        scale=scale,
        facts=_facts(analysis),
        unfinished=unfinished(analysis),
        warnings=analysis.warnings,
        reading=analysis.reading,
        plots=[
            {"caption": plot.caption, "svg": Markup(plot.inline)} for plot in pictures
        ],  # our own, escaped by matplotlib
        measures=MEASURES,
        rows=[
            {
                "anchor": anchor,
                "title": title(found),
                "primary": found.row.primary,
                "seeds": len(found.cells),
                "numbers": [number(found.numbers[measure]) for measure in MEASURES],
                "cells": [_cell(record) for record in found.records],
            }
            for anchor, found in _anchored(analysis)
        ],
        floors=[
            (name.removeprefix("floor: "), [f"{100 * values[measure]:.1f}" for measure in MEASURES])
            for name, values in analysis.floors.items()
        ],
        all_measures=ALL,
        differences=[
            {
                "first": each.contrast.first,
                "second": each.contrast.second,
                "anchors": [numbers[each.contrast.first], numbers[each.contrast.second]],
                "primary": each.contrast.primary,
                "seeds": len(each.numbers[MEAN].by_seed),
                "numbers": [(signed(each.numbers[measure]), each.numbers[measure].clear) for measure in ALL],
            }
            for each in analysis.differences
            if each.numbers
        ],
        paper=paper_rows(analysis),
        paper_unit=analysis.study.paper_unit,
        mean=MEAN,
        growth=[
            {"group": curve.group, "measure": measure, "said": found.said()}
            for curve in analysis.curves
            for measure, found in curve.growth.items()
        ],
    )


def _anchored(analysis: Analysis) -> list[tuple[str, RowFound]]:
    return [(f"row{position}", found) for position, found in enumerate(analysis.rows)]


def _cell(record: Record) -> dict[str, Any]:
    content = record.content
    facts = {
        "checkpoint": content.get("checkpoint"),
        "recipe": content.get("set", {}).get("recipe_sha256"),
        "environment": json.dumps(content.get("environment")),
        "set": content.get("set_command"),
        "command": content.get("command"),
    }
    return {
        "name": record.name,
        "file": f"../{CELLS}/{record.name}.json",
        "seed": content.get("seed"),
        "seconds": _seconds(content),
        "numbers": [f"{100 * record.top1(measure):.2f}" for measure in MEASURES],
        "facts": {name: str(value) for name, value in facts.items()},
    }


def _seconds(content: Mapping[str, Any]) -> float:
    return float(sum(content.get("seconds", {}).values()))


def _facts(analysis: Analysis) -> dict[str, str]:
    records = {record.name: record for found in analysis.rows for record in found.records}
    if not records:
        return {}
    contents = [record.content for record in records.values()]
    deviation = analysis.seed_deviation
    return {
        "cells shown": f"{len(contents)}",
        "missing": f"{len(analysis.missing)}",
        "measured on": ", ".join(sorted({str(content["data"]) for content in contents})),
        "unit": str(contents[0].get("unit", "")),
        "computed in": f"{sum(map(_seconds, contents)) / 60:.0f} core-minutes",
        "deviation over seeds": f"{100 * deviation[MEAN]:.2f} points ({MEAN})" if deviation else "unknown",
    }
