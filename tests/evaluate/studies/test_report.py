import csv
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from genrep.evaluate.studies.analysis import analyse
from genrep.evaluate.studies.catalogue import Scale, scaling
from genrep.evaluate.studies.record import MEASURES
from genrep.evaluate.studies.report import write_report
from genrep.evaluate.studies.study import Study


class Page(HTMLParser):
    """Links, ids, sources and elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.loads, self.elements = [], set(), [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        self.elements.add(tag)
        self.ids.add(facts.get("id"))
        if tag == "a":
            self.links.append(facts["href"])
        self.loads += [facts[name] for name in ("src", "srcset", "data", "action") if name in facts]
        self.loads += [facts[name] for name in ("href", "xlink:href") if name in facts and tag != "a"]


@pytest.fixture
def written(study, records, finish, tmp_path):
    """A folder with the report of a study that is done."""
    rng = np.random.Generator(np.random.PCG64(0))
    while missing := [cell for cell in study.cells(records) if cell not in records]:
        for cell in missing:
            finish(cell, right=rng.random(200) < 0.7)
    write_report(analyse(study, records), tmp_path / "small", scale="4 updates.")
    return tmp_path / "small"


def test_the_page_needs_nothing_from_elsewhere(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert "default-src 'none'" in text
    assert [each for each in page.loads if not each.startswith("#")] == []
    assert page.elements.isdisjoint({"script", "link", "iframe", "img", "object", "embed"})
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"@import", text)


def test_every_number_of_the_page_leads_to_its_record(written):
    page = Page((written / "report.html").read_text())
    inside = [link for link in page.links if link.startswith("#")]
    assert len(inside) == 3 * len(MEASURES) + 2  # rows, and both of the contrast
    assert {link[1:] for link in inside} <= page.ids
    outside = [link for link in page.links if not link.startswith("#")]
    assert len(outside) == (3 + 3 + 2) * len(MEASURES)
    assert all((written / link).exists() for link in outside)


def test_names_are_text_and_never_markup(study, records, finish, tmp_path):
    hostile = "<script>alert(1)</script>&_%"
    rows = tuple(dataclasses.replace(row, name=f"{hostile}{row.name}") for row in study.rows)
    study = Study("small", hostile, hostile, rows)
    for cell in study.cells(records):
        finish(cell)
    write_report(analyse(study, records), tmp_path / "small", scale="")
    assert "script" not in Page((tmp_path / "small" / "report.html").read_text()).elements
    assert r"\&\_\%" in (tmp_path / "small" / "table.tex").read_text()


def test_plots_take_their_ink_from_the_page_and_can_do_without_colour(written):
    text = (written / "report.html").read_text()
    assert "currentColor" in text
    assert "#010203" not in text
    assert {path.name for path in written.glob("*.svg")} == {f"{path.stem}.svg" for path in written.glob("*.png")}
    assert all(path.stat().st_size < 200_000 for path in written.iterdir())
    ids = re.findall(r'\bid="([^"]+)"', text)
    clips = [each for each in ids if re.fullmatch(r"p[0-9a-f]{10}", each)]
    assert len(clips) == len(set(clips)) > 0  # those of several pictures do not meet


def test_tables_say_the_same_in_every_form(written, study, records):
    analysis = analyse(study, records)
    lines = list(csv.DictReader(io.StringIO((written / "numbers.csv").read_text())))
    assert len(lines) == 3 * (len(MEASURES) + 1)
    first = analysis.rows[0].numbers[MEASURES[0]]
    assert float(lines[0]["mean"]) == pytest.approx(first.mean)
    assert lines[0]["cells"].split() == [cell.name for cell in analysis.rows[0].cells]
    mean = f"{100 * first.mean:.1f} ({100 * min(first.by_seed):.1f} to {100 * max(first.by_seed):.1f})"
    assert f"| T_x | 3 | {mean} ± {100 * first.test_error:.1f} |" in (written / "table.md").read_text()
    assert f"$T_x$ & 3 & {mean.replace(' to ', '--')} &" in (written / "table.tex").read_text()
    (difference,) = {
        line["first"] + "-" + line["second"]
        for line in csv.DictReader(io.StringIO((written / "differences.csv").read_text()))
    }
    assert difference == "both-T_x"
    assert "sigma 0.1 of 0.1, 0.5" in (written / "table.md").read_text()


def test_the_same_cells_give_the_same_bytes(written, study, records, tmp_path):
    write_report(analyse(study, records), tmp_path / "again", scale="4 updates.")
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_curves_over_samples_bring_their_laws(records, finish, tmp_path):
    study = scaling(Scale(stds=(0.2,), class_stds=(0.5,), sizes=(256, 1024, 4096)))
    for cell in study.cells(records):
        finish(cell, right=np.arange(300) < 200 + 3 * np.log(cell.setting.samples))
    write_report(analyse(study, records), tmp_path / "scaling", scale="")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "scaling" / "growth.csv").read_text())))
    assert {line["law"] for line in lines} == {"not identified"}  # three points
    assert "law not identified" in (tmp_path / "scaling" / "report.html").read_text()


def test_of_no_cells_there_is_a_report_that_says_so(study, records, tmp_path):
    text = write_report(analyse(study, records), tmp_path / "small", scale="")
    assert "Not finished: 9 cells known to be needed are missing, and the setting of 1 rows is not chosen yet." in text
