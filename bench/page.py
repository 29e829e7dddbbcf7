"""The generated part of docs/performance.md, made from the JSON that the other scripts left in a folder.

    python -m bench.page build/bench --into docs/performance.md

Nothing in that part is typed by hand.
"""

from pathlib import Path

import click

from bench.report import Report, Row, described, number, table

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ORDER = (
    "write-128-jpg", "write-128-jpg-420", "write-28-png", "write-128-png", "read-128", "read-28", "generate", "render",
    "train", "probe-256", "probe-1152", "verify-28", "verify-128", "full", "startup", "size",
)  # fmt: skip
GPUS, IMAGES_PER_S, PAIRS = 8, 3_000, 1_300_000


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--into", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Page with the two marks.")
def main(folder: Path, into: Path | None) -> None:
    """Print the part, or put it into a page in place of what stands between its marks."""
    reports = [Report.read(path) for name in ORDER if (path := folder / f"{name}.json").exists()]
    if not reports:
        raise click.ClickException(f"{folder} holds no results of bench/: run make bench first")
    text = part(reports)
    if into is None:
        click.echo(text)
        return
    page = into.read_text()
    if BEGIN not in page or END not in page:
        raise click.ClickException(f"{into} has not both marks, {BEGIN} and {END}: put them where the part belongs")
    into.write_text(f"{page.partition(BEGIN)[0]}{BEGIN}\n\n{text}\n\n{END}{page.partition(END)[2]}")


def part(reports: list[Report]) -> str:
    targets = [target.row() for report in reports for target in report.targets]
    parts = ["## What is reached", "; ".join(machines(reports)), table(targets), "## Every row"]
    for report in reports:
        parts += [f"**{report.name}**: {report.title}", *map(table, report.tables)]
    parts += projection({report.name: report for report in reports})
    return "\n\n".join(parts)


def machines(reports: list[Report]) -> list[str]:
    """What they were measured on, each once with all its days; the load is left to the files."""
    days: dict[str, set[str]] = {}
    for report in reports:
        what = described({**report.machine, "date": "{}", "load": "in the files"})
        days.setdefault(what, set()).add(report.machine["date"])
    return sorted(what.replace("{}", " and ".join(sorted(dates))) for what, dates in days.items())


def projection(reports: dict[str, Report]) -> list[str]:
    """What eight GPUs ask of processors, disk and network, from the speed of one core."""
    if "write-128-jpg" not in reports:
        return []
    written = reports["write-128-jpg"].figures
    rows = [projected(f"{IMAGES_PER_S:,} images/s together", IMAGES_PER_S / 2, written)]
    rows.append(projected(f"{IMAGES_PER_S:,} images/s each", GPUS * IMAGES_PER_S / 2, written))
    return [
        "## Eight GPUs, on paper",
        f"One core of this machine writes {number(written['pairs_per_cpu_s'])} pairs a second of 128 px JPEG q95 4:4:4 "
        f"({number(written['bytes_per_pair'] / 1e3)} kB each): conversion, encoding, hashes, tar, table. A generator "
        f"of {IMAGES_PER_S:,} images/s on {GPUS} GPUs then needs, beside them:",
        table(rows),
    ]


def projected(gpus: str, pairs_per_s: float, written: dict[str, float]) -> Row:
    bytes_per_s = pairs_per_s * written["bytes_per_pair"]
    return {
        f"{GPUS} GPUs": gpus,
        "pairs a second": float(pairs_per_s),
        "cores that encode": pairs_per_s / written["pairs_per_cpu_s"],
        "disk, MB a second": bytes_per_s / 1e6,
        "network to a store, Gbit a second": 8 * bytes_per_s / 1e9,
        f"{PAIRS:,} pairs in minutes": PAIRS / pairs_per_s / 60,
        "GB": PAIRS * written["bytes_per_pair"] / 1e9,
    }


if __name__ == "__main__":
    main()
