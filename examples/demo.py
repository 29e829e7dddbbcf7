"""The whole project in one run: generate pairs, train three encoders, probe them on real images.

`make demo`, or `python examples/demo.py --out demo`. It types the commands a user would type, and collects the
probes into a table, a plot and a contact sheet. Stopped, it continues where it was.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click

NUM_SAMPLES, STEPS = 20_000, 400
ENCODERS = {  # name -> (shards, --views)
    "SimCLR, T_x, real images": ("real", "pixel"),
    "SimCLR, T_x, generated": ("generated", "pixel"),
    "SimCLR, T_z + T_x, generated": ("generated", "both"),
}
SHIFTS = {"none": "clean", "affine": "affine"}
PROBES = ("full probe", "10 labels a class", "20-NN")
MARGIN = 8  # points above every floor, with 10 labels a class on affine images


class Cell(NamedTuple):
    """A number in the table: top-1 (fraction), and the features' width F."""

    top1: float
    width: int


Table = dict[str, dict[str, Cell]]  # row -> column -> cell


@click.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the set and of the training."
)
def main(out: Path, seed: int) -> None:
    """Generate, train, evaluate; ends with a table."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    shards = {"generated": out / f"generated-seed{seed}", "real": out / "real"}
    runs = {name: out / f"run{number}-seed{seed}" for number, name in enumerate(ENCODERS)}
    fresh = f"--seed {seed} --out {shards['generated']}"
    made = [
        f"genrep-generate --generator fashion-null --views gauss --n {NUM_SAMPLES} {fresh}",
        f"genrep-shards import fashion-mnist --n {NUM_SAMPLES} --out {shards['real']}",
        f"genrep-shards preview {shards['generated']} --out {out / 'contact-sheet.png'}",
    ]
    trained = [
        f"genrep-train --shards {shards[source]} --method simclr --views {views} --steps {STEPS} --seed {seed} "
        f"--threads 1 --out {runs[name]}"
        for name, (source, views) in ENCODERS.items()
    ]
    for command in made:
        run(command, threads=len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(2) as pool:  # one core each
        list(pool.map(run, trained))
    click.echo("probing on real images, clean and affine")
    with ProcessPoolExecutor(2) as processes:
        halves = list(processes.map(probed, SHIFTS, [list(runs.items())] * 2, [out / "cache"] * 2))
    results = {row: {**halves[0][row], **halves[1][row]} for row in halves[0]}
    text = markdown(results) + "\n" + "\n".join(verdicts(results)) + "\n"
    (out / f"table-seed{seed}.md").write_text(text)
    (out / f"table-seed{seed}.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, out / f"plot-seed{seed}.png")
    click.echo(f"\n{text}\n{time.monotonic() - started:.0f} s; the table, a plot and a contact sheet are in {out}/")


def run(command: str, threads: int = 1) -> None:
    """One command as a user types it, on so many cores."""
    click.echo(f"$ {command}")
    program, *arguments = shlex.split(command)
    environment = {**os.environ, "OMP_NUM_THREADS": f"{threads}"}
    words = [Path(sys.executable).parent / program, *arguments, "--quiet"]
    finished = subprocess.run(words, env=environment, check=False)
    if finished.returncode:
        raise click.ClickException(f"{program} ended with status {finished.returncode}: mend that and run again")


def probed(shift: str, runs: list[tuple[str, Path]], cache: Path) -> Table:
    """All probes under one shift; the floors are measured once, for the first run."""
    import torch

    from genrep.evaluate import KnnProbe, LinearProbe, evaluate, open_data

    torch.set_num_threads(1)
    data = open_data("fashion-mnist")
    columns = [f"{probe}, {SHIFTS[shift]}" for probe in PROBES]
    rows: Table = {}
    for name, folder in runs:
        results = evaluate(folder, data, [LinearProbe(), LinearProbe(10), KnnProbe()], shift=shift, cache=cache)
        rows[name] = {c: Cell(r.score.top1, r.score.feature_width) for c, r in zip(columns, results, strict=True)}
    for floor in results[0].floors:
        scores = [result.floors[floor] for result in results]
        rows[f"floor: {floor}"] = {c: Cell(s.top1, s.feature_width) for c, s in zip(columns, scores, strict=True)}
    return rows


def markdown(results: Table) -> str:
    """Top-1 in percent, a row an encoder."""
    columns = list(next(iter(results.values())))
    lines = [f"| top-1 % | features | {' | '.join(columns)} |", "|---|---" + "|---" * len(columns) + "|"]
    for row, cells in results.items():
        numbers = " | ".join(f"{100 * cells[column].top1:.1f}" for column in columns)
        lines.append(f"| {row} | {cells[columns[0]].width} | {numbers} |")
    return "\n".join(lines) + "\n"


def verdicts(results: Table) -> list[str]:
    """Where a floor wins, and whether the encoders stand clear of the floors where learning shows."""
    lines = []
    floors = {row: cells for row, cells in results.items() if row.startswith("floor")}
    for column in next(iter(results.values())):
        best_floor = max(floors, key=lambda row: floors[row][column].top1)
        beaten = [row for row in results if row not in floors and results[row][column] < floors[best_floor][column]]
        if beaten:
            lines.append(
                f"{column}: {best_floor} wins over {'; '.join(beaten)}: this column does not measure learning."
            )
    column = f"{PROBES[1]}, affine"
    highest = max(cells[column].top1 for cells in floors.values())
    for row, cells in results.items():
        if row not in floors:
            lead = 100 * (cells[column].top1 - highest)
            lines.append(f"{column}: {row} is {lead:+.1f} points from the best floor (expected: at least +{MARGIN}).")
    return lines


def plot(results: Table, path: Path) -> None:
    """One panel a column, one bar a row; floors hatched, so that it reads without colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns, rows = list(next(iter(results.values()))), list(results)[::-1]
    figure, panels = pyplot.subplots(2, 3, figsize=(11, 5.2), sharey=True, layout="constrained")
    for panel, column in zip(panels.flat, columns, strict=True):
        values = [100 * results[row][column].top1 for row in rows]
        bars = panel.barh(rows, values, color=["0.85" if row.startswith("floor") else "tab:blue" for row in rows])
        for bar, row in zip(bars, rows, strict=True):
            bar.set_hatch("//" if row.startswith("floor") else "")
        panel.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        panel.set(title=column, xlim=(0, 109))
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("top-1 on the 10,000 real test images of Fashion-MNIST, %")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
