"""The paper's tables and its figure 6: what their rows are, what came out, what they would cost, and a toy of each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from genrep.evaluate.studies.catalogue import STUDIES, Scale
from genrep.evaluate.studies.study import Study

FOLDER = "paper"

# seconds; on the authors' two GPUs, from their training logs: without waiting for data, and as it was
UPDATE_S, UPDATE_WAITING_S = 0.30, 1.72


@dataclass(frozen=True)
class PaperRow:
    """A row of a table.

    Attributes:
        expected: What the sources give, in the table's unit; None where it could not be established.
        toy: Name of the row of the toy that stands for it, if one does.
        commands: From generator to number.
        rendered: Images of its set.
        pixels: Bytes of one before it is compressed.
        updates: Of its encoder, 256 pairs each.
    """

    name: str
    expected: float | None
    toy: str | None
    commands: tuple[str, ...]
    rendered: int
    pixels: int
    updates: int


@dataclass(frozen=True)
class PaperTable:
    """A table or figure.

    Attributes:
        place: Where in the paper.
        source: Of the numbers.
        unit: Of the numbers.
        note: What one must know beside.
        study: Of the catalogue, which asks the same on the embedded generator.
    """

    name: str
    title: str
    place: str
    source: str
    unit: str
    note: str
    study: str
    rows: tuple[PaperRow, ...]

    def toy(self, scale: Scale) -> Study:
        """The study that asks the same at the scale of the embedded generator; its report shows the paper's numbers."""
        study = STUDIES[self.study](scale)
        told = tuple((row.name, number(row), row.toy or "") for row in self.rows)
        return replace(
            study,
            name=f"replay-{self.name}",
            title=f"{self.title}, as a toy",
            paper=told,
            paper_unit=self._unit_and_source,
        )

    @property
    def _unit_and_source(self) -> str:
        return f"{self.unit} ({self.source})"

    def plan(self) -> str:
        """Commands, expected numbers and cost at the paper's scale, as text."""
        lines = [f"{self.title}: {self.place}", f"unit: {self.unit}", f"numbers: {self.source}"]
        lines += [self.note] if self.note else []
        sets: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            lines += ["", f"{row.name}: {number(row)}", *(f"  {command}" for command in row.commands)]
            sets |= dict.fromkeys(row.commands[:-2], (row.rendered, row.pixels))
        rendered, updates = sum(images for images, _ in sets.values()), sum(row.updates for row in self.rows)
        raw = sum(images * pixels for images, pixels in sets.values())
        lines += [
            "",
            f"cost: {len(sets)} sets, {rendered:,} images to render, {raw / 1e12:.2f} TB of pixels before they are "
            f"compressed; {len(self.rows)} encoders, {updates:,} updates of 256 pairs, "
            f"{updates * UPDATE_S / 3600:,.0f} hours on the authors' two GPUs where reading keeps up, "
            f"{updates * UPDATE_WAITING_S / 3600:,.0f} hours as slow as their single files were read.",
            "genrep-generate ... --dry-run measures rendering and bytes on your machine. None of this was run here.",
        ]
        return "\n".join(lines)


def table(name: str) -> PaperTable:
    """One of those in ``paper/``, by its name."""
    content = json.loads(files(__package__).joinpath(FOLDER, f"{name}.json").read_text(encoding="utf-8"))
    rows = tuple(_row(fields) for fields in content.pop("rows"))
    return PaperTable(name=name, rows=rows, **content)


def number(row: PaperRow) -> str:
    """What the paper has."""
    return "not established" if row.expected is None else f"{row.expected:.2f}".removesuffix("0")


def _row(fields: Mapping[str, Any]) -> PaperRow:
    return PaperRow(**{**fields, "commands": tuple(fields["commands"])})
