"""Cost against size: genrep-generate for sets of growing size, in one process and in two that share a set.

    python -m bench.size
    python -m bench.size --full

Whole processes, start-up included, in wall seconds; what they hold in memory at most, as the kernel counts it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bench.report import Report, Row, out_option

SIZES, FULL_SIZES = (2_000, 20_000), (200_000,)
PROCESSES = (1, 2)


@dataclass(frozen=True)
class Run:
    """One set written by some processes.

    Attributes:
        peak_mb: Resident memory of the largest process.
    """

    seconds: float
    peak_mb: float
    num_shards: int
    set_mb: float


@click.command()
@click.option("--full", is_flag=True, help=f"Also {FULL_SIZES[0]:,} pairs.")
@out_option
def main(full: bool, out: Path | None) -> None:
    """Images a second and peak memory for each size and number of processes."""
    rows: list[Row] = []
    for num_pairs in SIZES + FULL_SIZES * full:
        for processes in PROCESSES:
            run = generated(["--n", f"{num_pairs}"], processes=processes)
            rows.append(
                {
                    "pairs": num_pairs,
                    "processes": processes,
                    "seconds": run.seconds,
                    "images a second": 2 * num_pairs / run.seconds,
                    "peak MB a process": run.peak_mb,
                    "shards": run.num_shards,
                    "MB": run.set_mb,
                }
            )
    Report(
        name="size",
        about="genrep-generate, default generator, float32, each size once",
        tables=[rows],
        threads="in all as many threads render as there are cores, and one in each process encodes",
    ).show(out)


def generated(options: Sequence[str], *, processes: int = 1) -> Run:
    """Time genrep-generate into a folder of its own; several processes are its ranks, as under torchrun.

    They share the cores: each renders by as many threads as fall to it.
    """
    threads = max(len(os.sched_getaffinity(0)) // processes, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": f"{threads}", "WORLD_SIZE": f"{processes}"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set")
        words = [str(Path(sys.executable).parent / "genrep-generate"), *options, "--out", str(path), "--quiet"]
        started = time.perf_counter()
        ranks = [subprocess.Popen(words, env={**environment, "RANK": f"{rank}"}) for rank in range(processes)]
        ends = [os.wait4(rank.pid, 0) for rank in ranks]
        seconds = time.perf_counter() - started
        if any(status for _, status, _ in ends):
            raise click.ClickException(f"{' '.join(words)} did not end well")
        tars = list(path.glob("*.tar"))
        return Run(
            seconds=seconds,
            peak_mb=max(usage.ru_maxrss for *_, usage in ends) / 1e3,
            num_shards=len(tars),
            set_mb=sum(tar.stat().st_size for tar in tars) / 1e6,
        )


if __name__ == "__main__":
    main()
