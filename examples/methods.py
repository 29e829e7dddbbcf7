"""Every training method on the embedded generators, with T_x, T_z and both: a table made of small finished cells.

`python examples/methods.py`. A cell is a method, its views and a seed; it trains, is probed on real images and leaves
one JSON file in docs/results/methods/. A cell whose file is there is never done again, and an interrupted one goes on
from its last checkpoint. All encoders get 400 updates of 512 images: 256 pairs, 128 samples of four views, or 512
single images.
"""

import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
NUM_SAMPLES, NUM_VIEWS, IMAGES = 20_000, 3, 512
SETS = {"fashion-null": 0.2, "fashion": 0.5}  # generator -> sigma of its Gaussian views
VIEWS = {"pixel": "T_x", "latent": "T_z", "both": "T_z + T_x"}
PROBES = ("full probe", "10 labels a class", "20-NN")
SHIFTS = {"none": "clean", "affine": "affine"}


@dataclass(frozen=True)
class Row:
    """A method as it is trained here.

    Attributes:
        generator: Without classes for what needs no label, with them for the rest, as the paper pairs them.
        images: Of a sample in a batch.
        seeds: How many.
    """

    method: str
    generator: str
    images: int
    seeds: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.generator}"


ROWS = [
    Row("simclr", "fashion-null", 2, 3),
    Row("byol", "fashion-null", 2, 1),
    Row("vicreg", "fashion-null", 2, 1),
    Row("inverter", "fashion-null", 1, 1),
    Row("supcon", "fashion", 2, 3),
    Row("multipos", "fashion", 1 + NUM_VIEWS, 3),
    Row("classifier", "fashion", 1, 1),
    Row("inverter", "fashion", 1, 1),
]


@dataclass(frozen=True)
class Cell:
    row: Row
    views: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.name}-{self.views}-seed{self.seed}"

    def command(self, folder: Path, steps: int) -> str:
        """What trains it, in the folder of the study."""
        row = self.row
        several = f" --num-views {row.images - 1}" if row.images > 2 else ""
        return (
            f"genrep-train --shards {folder / row.generator} --method {row.method} --views {self.views}{several} "
            f"--batch-size {IMAGES // row.images} --steps {steps} --seed {self.seed} --threads 1 "
            f"--out {folder / self.name}"
        )


CELLS = [Cell(row, views, seed) for seed in range(3) for row in ROWS if seed < row.seeds for views in VIEWS]


@click.command()
@click.option("--out", default="methods", show_default=True, type=click.Path(path_type=Path), help="Sets and runs.")
@click.option(
    "--results",
    default=ROOT / "docs" / "results" / "methods",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where cells and table go.  [default: docs/results/methods]",
)
@click.option("--only", default="", metavar="TEXT", help="Cells whose name holds this, such as byol or both-seed0.")
@click.option("--steps", default=400, show_default=True, type=click.IntRange(min=1), help="Updates of a cell.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Cells at once, a core each.")
def main(out: Path, results: Path, only: str, steps: int, jobs: int) -> None:
    """Do the cells that are missing, then make the table of all that are there."""
    results.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in CELLS if only in cell.name and not (results / f"{cell.name}.json").exists()]
    click.echo(f"{len(missing)} cells to do")
    for generator in sorted({cell.row.generator for cell in missing}):
        views = f"--views gauss --num-views {NUM_VIEWS} --std {SETS[generator]}"
        run(f"genrep-generate --generator {generator} {views} --n {NUM_SAMPLES} --out {out / generator}")
    with ProcessPoolExecutor(jobs) as processes:
        for name in processes.map(do, missing, *([each] * len(missing) for each in (out, results, steps))):
            click.echo(f"{name}: done")
            write_table(results)
    write_table(results)


def do(cell: Cell, out: Path, results: Path, steps: int) -> str:
    """Train and probe one cell; its file appears when all of it is known."""
    import torch

    import genrep.shards
    from genrep.evaluate import KnnProbe, LinearProbe, evaluate, open_data
    from genrep.shards import atomic

    torch.set_num_threads(1)
    began = time.monotonic()
    command = cell.command(out, steps)
    run(command)
    trained = time.monotonic()
    data = open_data("fashion-mnist")
    scores: dict[str, Any] = {}
    for shift, shift_name in SHIFTS.items():
        measured = evaluate(
            out / cell.name, data, [LinearProbe(), LinearProbe(10), KnnProbe()], shift=shift, cache=out / "cache"
        )
        for probe, result in zip(PROBES, measured, strict=True):
            every = {"encoder": result.score, **{f"floor: {name}": score for name, score in result.floors.items()}}
            scores[f"{probe}, {shift_name}"] = {
                name: {"top1": score.top1, "interval": score.interval, "features": score.feature_width}
                for name, score in every.items()
            }
    shards = genrep.shards.open(out / cell.row.generator)
    content = {
        **asdict(cell.row),
        "views": cell.views,
        "seed": cell.seed,
        "steps": steps,
        "unit": f"top1: fraction of {len(data.test.labels)} test images of fashion-mnist",
        "scores": scores,
        "command": command,
        "set": {"generator": dict(shards.recipe["generator"]), "recipe_sha256": result.recipe, "samples": len(shards)},
        "config": result.training,
        "checkpoint": result.checkpoint,
        "environment": {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()},
        "seconds": {"training": round(trained - began), "probes": round(time.monotonic() - trained)},
    }
    del content["seeds"]
    atomic.write(results / f"{cell.name}.json", json.dumps(content, indent=1).encode() + b"\n")
    return cell.name


def run(command: str) -> None:
    """One command as a user types it."""
    program, *arguments = shlex.split(command)
    finished = subprocess.run([Path(sys.executable).parent / program, *arguments, "--quiet"], check=False)
    if finished.returncode:
        raise click.ClickException(f"{command} ended with status {finished.returncode}: mend that and run again")


def write_table(results: Path) -> None:
    """``table.md``: a row a method and its views, top-1 in percent, the mean over seeds and their range."""
    cells = {cell: json.loads(path.read_text()) for cell in CELLS if (path := results / f"{cell.name}.json").exists()}
    if not cells:
        return
    check_one_study(cells)
    columns = [f"{probe}, {shift}" for shift in SHIFTS.values() for probe in PROBES]
    lines = [
        f"| top-1 % | views | images a sample | seeds | {' | '.join(columns)} |",
        "|---|---|---|---|" + "---|" * len(columns),
    ]
    for row in ROWS:
        for views, transformation in VIEWS.items():
            found = [content for cell, content in cells.items() if (cell.row, cell.views) == (row, views)]
            if found:
                numbers = [spread([each["scores"][column]["encoder"]["top1"] for each in found]) for column in columns]
                seeds = f"{len(found)}" if len(found) > 1 else "1 only"
                head = f"{row.method} on `{row.generator}` | {transformation} | {row.images} | {seeds}"
                lines.append(f"| {head} | {' | '.join(numbers)} |")
    floors = next(iter(cells.values()))["scores"]
    for floor in [name for name in floors[columns[0]] if name != "encoder"]:
        numbers = [f"{100 * floors[column][floor]['top1']:.1f}" for column in columns]
        lines.append(f"| {floor} | | | | {' | '.join(numbers)} |")
    first = next(iter(cells.values()))
    head = (
        "# Methods and views\n\n"
        f"Made by `python examples/methods.py` from the {len(cells)} of {len(CELLS)} cells that lie beside it: "
        f"{first['steps']} updates of {IMAGES} images, {NUM_SAMPLES} anchors with {NUM_VIEWS} Gaussian views "
        f"({', '.join(f'`{generator}` sigma {sigma}' for generator, sigma in SETS.items())}), probes on real "
        "Fashion-MNIST, whose test images nothing was chosen on. "
        "Mean over seeds (least to most).\n\n"
    )
    (results / "table.md").write_text(head + "\n".join(lines) + "\n")


def check_one_study(cells: dict[Cell, dict[str, Any]]) -> None:
    """Cells of one table share their updates, and those of one generator its weights."""
    seen: dict[str, Any] = {}
    for cell, content in cells.items():
        for what, value in (
            ("steps", content["steps"]),
            (f"recipe of {cell.row.generator}", content["set"]["recipe_sha256"]),
        ):
            if seen.setdefault(what, value) != value:
                raise click.ClickException(
                    f"{cell.name}.json has another {what} than the cells before it: remove the old ones and choose a "
                    "new --out, so that they are done again"
                )


def spread(values: list[float]) -> str:
    mean = f"{100 * sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
