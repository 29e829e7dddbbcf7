"""One cell, in a process of its own: make its set, train, probe, write its record.

`python -m genrep.evaluate.studies.work NAME` with the cell, as JSON, in the standard input.
"""

import dataclasses
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrep.evaluate.studies.cell import RUNS, SETS, Cell, Setting, Source
from genrep.evaluate.studies.record import MEASURES, PROBES, SHIFTS, Records, pack, write
from genrep.shards import atomic
from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from genrep.evaluate.data import RealData

CACHE, LOCKS = "cache", "locks"


@dataclasses.dataclass(frozen=True)
class Order:
    """What a process is asked to do.

    Attributes:
        out: Folder of sets and runs.
        results: Folder of the records.
        data: As in ``--data``.
        device: For training and probes.
    """

    cell: Cell
    out: Path
    results: Path
    data: str
    device: str = "cpu"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Order":
        fields = json.loads(text)
        setting = fields["cell"]["setting"]
        source, mixed = setting.pop("source"), setting.pop("mixed")
        sets: dict[str, Any] = {"source": _source(source), "mixed": mixed and _source(mixed)}
        cell = Cell(Setting(**sets, **setting), fields["cell"]["seed"])

        return cls(**{**fields, "cell": cell, "out": Path(fields["out"]), "results": Path(fields["results"])})


def _source(fields: dict[str, Any]) -> Source:
    return Source(**{**fields, "arguments": tuple(fields["arguments"])})


def do(order: Order) -> None:
    """Do a cell unless it is done; of several processes that want the same one does it and the others wait.

    Raises:
        DataError: If a command fails, or the encoder cannot be measured.
    """
    records = Records(order.results, data=order.data)
    cell = order.cell
    with locked(order.out / LOCKS / f"{cell.name}.lock") as lock:
        if cell in records:
            return
        for source in cell.setting.sources:
            with locked(order.out / LOCKS / f"set-{source.name}.lock") as set_lock:
                if not (order.out / SETS / source.name / "manifest.json").exists():
                    run(source.command(order.out), held=set_lock)
        began = time.monotonic()
        train(order, held=lock)
        trained = time.monotonic()
        first = not any(
            records.folder.glob("*.json")
        )  # the floors, which cost most, are then not known yet: once is enough
        with locked(order.out / LOCKS / "floors.lock") if first else nullcontext():
            content = measured(order, cache=order.out / CACHE)
        seconds = {"training": round(trained - began, 1), "probes": round(time.monotonic() - trained, 1)}
        write(records.path(cell), {**content, "seconds": seconds})


def train(order: Order, *, held: int) -> None:
    """Train, or go on from the last checkpoint."""
    if order.cell.setting.method == "untrained":
        save_untrained(order.cell, order.out)
    else:
        run(order.cell.command(order.out, device=order.device), held=held)


def save_untrained(cell: Cell, out: Path) -> None:
    """A checkpoint of the weights that ``genrep-train`` would start from with this seed."""
    import genrep.shards
    from genrep.train.checkpoint import save_checkpoint
    from genrep.train.config import resolve
    from genrep.train.learner import Learner
    from genrep.train.ranks import Ranks

    setting = cell.setting
    shards = genrep.shards.open(out / SETS / setting.source.name)
    config = resolve(
        shards,
        method="simclr",
        views=setting.views,
        limit=setting.samples,
        steps=setting.steps,
        batch_size=setting.batch_size,
        seed=cell.seed,
    )
    learner = Learner(config, device="cpu", ranks=Ranks())
    folder = out / RUNS / cell.name
    with atomic.reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, 0, config, learner.states())


def measured(order: Order, *, cache: Path, data: "RealData | None" = None) -> dict[str, Any]:
    """The record of a trained cell, but for the time it took; ``cache`` keeps the floors, which cost most."""
    import torch

    import genrep.shards
    from genrep.evaluate import KnnProbe, LinearProbe, evaluate, open_data

    torch.set_num_threads(1)
    cell, setting = order.cell, order.cell.setting
    data = data or open_data(order.data)
    scores: dict[str, Any] = {}
    held_out: dict[str, float] = {}
    right: dict[str, Any] = {}
    for shift, shift_name in SHIFTS.items():
        results = evaluate(
            order.out / RUNS / cell.name,
            data,
            [LinearProbe(), LinearProbe(10), KnnProbe()],
            shift=shift,  # type: ignore[arg-type]
            cache=cache,
            device=order.device,
            keep_features=False,  # of some hundred encoders they would fill the disk
        )
        for probe, result in zip(PROBES, results, strict=True):
            measure = f"{probe}, {shift_name}"
            every = {"encoder": result.score, **{f"floor: {name}": score for name, score in result.floors.items()}}
            scores[measure] = {
                name: {"top1": score.top1, "interval": score.interval, "features": score.feature_width}
                for name, score in every.items()
            }
            held_out[measure] = result.held_out_top1
            right[measure] = pack(result.right, draws=result.score.settings.get("num_draws", 1))
    assert set(scores) == set(MEASURES)
    shards = genrep.shards.open(order.out / SETS / setting.source.name)
    return {
        "format": "genrep-cell/1",
        "cell": cell.name,
        **dataclasses.asdict(setting),
        "seed": cell.seed,
        "unit": f"top1: fraction of {len(data.test.labels)} test images of {data.name}; "
        f"held_out: of {len(data.held_out.labels)} training images held out",
        "data": data.name,
        "data_sha256": data.sha256,
        "scores": scores,
        "held_out": held_out,
        "command": cell.command(Path(), device=order.device),
        "set_command": "; ".join(source.command(Path()) for source in setting.sources),
        "set": {
            "generator": shards.recipe.get("generator"),
            "recipe_sha256": result.recipe,
            "samples": len(shards),
        },
        "config": result.training,
        "checkpoint": result.checkpoint,
        "environment": {
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            **({"gpu": torch.cuda.get_device_name(order.device)} if order.device != "cpu" else {}),
        },
        "right": right,
    }


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Wait for a lock and hold it; it ends with the last process that has the descriptor, however that ends."""
    with atomic.reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def run(command: str, *, held: int) -> None:
    """One command as a user types it; it keeps a lock, so that nobody starts it again if it outlives this process.

    Raises:
        DataError: If it fails, with its own words.
    """
    program, *arguments = shlex.split(command)
    path = Path(sys.executable).parent / program
    found = str(path) if path.exists() else shutil.which(program) or program
    words = [found, *arguments, "--quiet"]
    with subprocess.Popen(words, pass_fds=[held], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            process.terminate()  # a training leaves a checkpoint
            raise
    if process.returncode:
        words = errors.decode(errors="replace").strip().splitlines() or [f"status {process.returncode}"]
        raise DataError(f"{command}: {words[-1].removeprefix('Error: ')}")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        do(Order.from_json(sys.stdin.read()))
    except DataError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


if __name__ == "__main__":
    main()
