"""What the scripts of bench/ share: interleaved rounds, the machine, targets; Markdown to read and JSON to keep."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from genrep.shards.memory import keep_memory

PACKAGES = (
    "torch", "torchvision", "numpy", "numba", "pillow", "simplejpeg", "isal", "pyarrow", "webdataset", "ffcv",
    "onnxruntime", "scikit-learn", "lightly",
)  # fmt: skip

Way = Callable[[], float]  # does some work and returns how much
Row = Mapping[str, Any]  # heading -> number or text

out_option = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the same as Markdown and JSON."
)


def rounds_option(default: int) -> Callable[[Any], Any]:
    return click.option("--rounds", default=default, show_default=True, type=click.IntRange(min=1))


@dataclass(frozen=True)
class Target:
    """A line of the table in docs/performance.md.

    Attributes:
        unit: ``x`` (times as much), ``%`` (of the other, as a fraction), or that of a time.
        at_most: Whether less than ``reach`` is asked for.
    """

    path: str
    against: str
    reach: float
    measured: float
    unit: str = "x"
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.reach if self.at_most else self.measured >= self.reach

    def row(self) -> Row:
        bound = "at most " if self.at_most else ""
        return {
            "path": self.path,
            "against": self.against,
            "reach": bound + quantity(self.reach, self.unit),
            "measured": f"{quantity(self.measured, self.unit)}, {'reached' if self.met else 'not reached'}",
        }


def machine() -> dict[str, Any]:
    """Where and when this is measured, and with which versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "versions": {package: found for package in PACKAGES if (found := _installed(package))},
    }


@dataclass(frozen=True)
class Report:
    """What one script found.

    Attributes:
        name: Of its files.
        about: What was measured, on what, in how many rounds.
        tables: Each a row a way.
        threads: How many each way may use.
        figures: What docs/performance.md computes with.
    """

    name: str
    about: str
    tables: Sequence[Sequence[Row]]
    targets: Sequence[Target] = ()
    threads: str = "one thread"
    figures: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=machine)

    @classmethod
    def read(cls, path: Path) -> "Report":
        content = json.loads(path.read_text())
        return cls(**{**content, "targets": [Target(**target) for target in content["targets"]]})

    def show(self, out: Path | None) -> None:
        """Print it; with a folder, also leave ``NAME.md`` and ``NAME.json`` there."""
        parts = [f"{self.title}\n{described(self.machine)}", *map(table, self.tables)]
        if self.targets:
            parts.append(table([target.row() for target in self.targets]))
        text = "\n\n".join(parts)
        click.echo(text)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{self.name}.md").write_text(text + "\n")
            (out / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    @property
    def title(self) -> str:
        return f"{self.about}; {self.threads}."


def rates(
    ways: Mapping[str, Way], *, rounds: int, clock: Callable[[], float] = time.process_time, warm: bool = True
) -> dict[str, list[float]]:
    """Work a second of each way in each round, a list a way; if ``warm``, one more round before them is not counted.

    CPU-seconds are those of one core. Freed memory stays with the process, as in genrep's commands, whatever the way.
    """
    keep_memory()
    found: dict[str, list[float]] = {name: [] for name in ways}
    with one_core() if clock is time.process_time else nullcontext():
        for number in range(not warm, rounds + 1):
            for name, way in ways.items():
                started = clock()
                work = way()
                if number:
                    found[name].append(work / (clock() - started))
    return found


@contextmanager
def one_core() -> Iterator[None]:
    """This thread, and those that it starts, on one core: side by side on two they would slow each other."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def summary(rates: Mapping[str, Sequence[float]], unit: str, *, to: str) -> list[Row]:
    """A row a way: median, spread, and the ratio of its median to that of the way ``to``."""
    return [{"way": name, **spread(found, unit), f"x {to}": ratio(rates, name, to)} for name, found in rates.items()]


def spread(found: Sequence[float], unit: str) -> dict[str, Any]:
    return {unit: statistics.median(found), "least to most": f"{number(min(found))} to {number(max(found))}"}


def ratio(rates: Mapping[str, Sequence[float]], way: str, to: str) -> float:
    """Of the medians."""
    return statistics.median(rates[way]) / statistics.median(rates[to])


def described(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {found}" for package, found in facts["versions"].items())
    return (
        f"{facts['date']}; {facts['processor']}, {facts['cores']} cores, load {facts['load']}, OMP_NUM_THREADS "
        f"{facts['omp_num_threads']}; Python {facts['python']}, {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    widest = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else ""
    return f"{name or platform.machine()} {widest}".strip()


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(rows: Sequence[Row]) -> str:
    """In Markdown; columns are those of the first row."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(number(row[column]) for column in head) + " |" for row in rows])


def quantity(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "%" else f"{number(value)}{' ' if unit != 'x' else ''}{unit}"


def number(value: Any) -> str:
    """Three digits, whole ones if there are more; text as it is."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
