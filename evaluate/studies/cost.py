"""What a study will cost, from cells that are finished or from a short measurement."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from genrep.evaluate import open_data
from genrep.evaluate.data import Part, RealData
from genrep.evaluate.sources import rows_of
from genrep.evaluate.studies.cell import RUNS, SETS, Cell, Setting
from genrep.evaluate.studies.record import Records
from genrep.evaluate.studies.study import Study
from genrep.evaluate.studies.work import CACHE, Order, locked, measured, run
from genrep.shards import atomic
from genrep.shards.errors import DataError

FILE = "cost.json"
ENOUGH = 8000  # images to fit on, to measure how long probes take


@dataclass(frozen=True)
class Rates:
    """What things cost on this machine, with one thread.

    Attributes:
        image_s: To render, encode and write an image.
        image_bytes: Of a set on disk, an image.
        update_image_s: An update, an image of its batch.
        start_s: Of a command, before its first image.
        probes_s: All probes of an encoder, once the floors are known.
        floors_s: All probes of all floors, once for a folder.
        run_bytes: A run on disk.
    """

    image_s: float
    image_bytes: float
    update_image_s: float
    start_s: float
    probes_s: float
    floors_s: float
    run_bytes: int


@dataclass(frozen=True)
class Cost:
    """Of what is missing.

    Attributes:
        sets: Name of a missing set -> seconds.
        cells: Name of a missing cell -> seconds.
        floors: Seconds of their probes, if they are still to be done.
        set_bytes, run_bytes: They will take on disk.
    """

    sets: dict[str, float]
    cells: dict[str, float]
    floors: float
    set_bytes: int
    run_bytes: int

    def seconds(self, jobs: int) -> float:
        """With so many cells at once."""
        return self.floors + (sum(self.sets.values()) + sum(self.cells.values())) / jobs


def predict(cells: Sequence[Cell], records: Records, rates: Rates, *, out: Path) -> Cost:
    """Cost of those cells that have no record, and of the sets they need and lack."""
    missing = [cell for cell in cells if cell not in records]
    sources = dict.fromkeys(source for cell in missing for source in cell.setting.sources)
    lacking = [source for source in sources if not (out / SETS / source.name / "manifest.json").exists()]
    return Cost(
        sets={source.name: rates.start_s + rates.image_s * source.num_images for source in lacking},
        cells={
            cell.name: rates.probes_s
            + (
                0
                if cell.setting.method == "untrained"
                else rates.start_s + rates.update_image_s * cell.setting.images * cell.setting.steps
            )
            for cell in missing
        },
        floors=rates.floors_s if missing and not (out / CACHE / "floors").exists() else 0,
        set_bytes=round(sum(rates.image_bytes * source.num_images for source in lacking)),
        run_bytes=rates.run_bytes * len(missing),
    )


def rates_of(study: Study, records: Records, *, out: Path, data: str, device: str) -> Rates:
    """Those of the machine, but for what finished cells took."""
    return from_finished(
        study, records, measured_rates(study.rows[0].candidates[0], out / FILE, out=out, data=data, device=device)
    )


def measured_rates(setting: Setting, path: Path, *, out: Path, data: str, device: str) -> Rates:
    """Measured once and kept in a file; with the sets and runs of ``out``, which are removed.

    Raises:
        DataError: If what was measured cannot be read, or a command fails.
    """
    try:
        return Rates(**json.loads(path.read_text()))
    except FileNotFoundError:
        with atomic.reported(out):
            out.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        rates = measure(setting, out=out, data=data, device=device)
        atomic.write(path, json.dumps(asdict(rates), indent=1).encode() + b"\n")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}): remove it to have the times measured again") from error
    return rates


def from_finished(study: Study, records: Records, rates: Rates) -> Rates:
    """The rates, with those of training and probes replaced by the medians of finished cells."""
    finished = [cell for cell in study.cells(records) if cell in records and cell.setting.method != "untrained"]
    if not finished:
        return rates
    seconds = [records[cell].content["seconds"] for cell in finished]
    images = [cell.setting.images * cell.setting.steps for cell in finished]
    return Rates(
        **{
            **asdict(rates),
            "update_image_s": median(
                max(each["training"] - rates.start_s, 0) / number for each, number in zip(seconds, images, strict=True)
            ),
            "probes_s": median(each["probes"] for each in seconds),
        }
    )


def measure(setting: Setting, *, out: Path, data: str, device: str) -> Rates:
    """A small set, a few updates, and all probes of one encoder and of the floors on some of the images."""
    source = replace(setting.source, samples=2048)
    some = Cell(replace(setting, source=source, samples=2048, steps=11), 0)
    tiny = replace(source, samples=64)
    with tempfile.TemporaryDirectory(dir=out) as name, locked(out / ".cost.lock") as held:
        folder = Path(name)
        seconds = {}
        for what, command in (
            ("tiny", tiny.command(folder)),
            ("set", source.command(folder)),
            ("some", some.command(folder, device=device)),
        ):
            began = time.monotonic()
            run(command, held=held)
            seconds[what] = time.monotonic() - began
        lines = (folder / RUNS / some.name / "metrics.jsonl").read_text().splitlines()
        image_s = median(1 / json.loads(line)["images_per_s"] for line in lines[1:])  # the first also warms up
        order, thin, share = Order(some, folder, folder, data, device), *_thinned(open_data(data))
        durations = []
        for _ in range(2):  # the second time the floors are known
            began = time.monotonic()
            measured(order, cache=folder / CACHE, data=thin)
            durations.append((time.monotonic() - began) / share)
        files = [file.stat().st_size for file in (folder / SETS / source.name).rglob("*") if file.is_file()]
        run_files = [file.stat().st_size for file in (folder / RUNS / some.name).rglob("*") if file.is_file()]
    images = source.num_images - tiny.num_images
    return Rates(
        image_s=max(seconds["set"] - seconds["tiny"], 0) / images,
        image_bytes=sum(files) / source.num_images,
        update_image_s=image_s,
        start_s=max(seconds["some"] - image_s * setting.images * some.setting.steps, 0),
        probes_s=durations[1],
        floors_s=max(durations[0] - durations[1], 0),
        run_bytes=sum(run_files),
    )


def _thinned(data: RealData) -> tuple[RealData, float]:
    """Every n-th image of each part, of one class as of another, and which share of the images that is."""
    step = max(1, len(data.fit.labels) // ENOUGH)

    def thin(part: Part) -> Part:
        by_class = np.argsort(part.labels, kind="stable")
        return rows_of(part, np.sort(by_class[::step]))

    fit, held_out, test = thin(data.fit), thin(data.held_out), thin(data.test)
    share = len(fit.labels) / len(data.fit.labels)
    return replace(data, sha256=f"{data.sha256}/{step}", fit=fit, held_out=held_out, test=test), share
