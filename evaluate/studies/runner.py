"""Do the cells of a study that are missing, several at once, each in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.record import Records
from genrep.evaluate.studies.study import Study
from genrep.evaluate.studies.work import Order
from genrep.shards.errors import DataError

REST = 0.2  # seconds between looks
PROGRAM = (sys.executable, "-m", "genrep.evaluate.studies.work")


class Process(Protocol):
    """What is used of ``subprocess.Popen``."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def communicate(self) -> tuple[str, str]: ...

    def terminate(self) -> None: ...

    def wait(self) -> object: ...


Start = Callable[[Order], Process]


def start(order: Order, program: tuple[str, ...] = PROGRAM) -> "subprocess.Popen[str]":
    """A process that does a cell, with one thread; its last line of errors says what was wrong."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    process.stdin.write(order.to_json())
    process.stdin.close()
    process.stdin = None  # so that communicate leaves it alone
    return process


def run(
    study: Study,
    records: Records,
    *,
    out: Path,
    results: Path,
    data: str,
    jobs: int,
    device: str = "cpu",
    on_done: Callable[[Cell, int], None] = lambda cell, left: None,
    start: Start = start,
) -> None:
    """Do what is missing, most important cells first, until none is left that can be done.

    A cell that fails does not stop the others. Killed at any moment, the same call does what is still missing; a
    process that outlived this one is waited for.

    Args:
        start: Begins a cell, in a process or elsewhere.
        on_done: Told of every cell that was done, and how many that are known to be needed are left.

    Raises:
        DataError: At the end, naming the first cell that failed and why.
    """
    running: dict[Cell, Process] = {}
    failed: dict[Cell, str] = {}
    try:
        while True:
            waiting = [cell for cell in study.cells(records) if cell not in records and cell not in failed]
            for cell in [cell for cell in waiting if cell not in running][: jobs - len(running)]:
                running[cell] = start(Order(cell, out, results, data, device))
            if not running:
                break
            ended = [cell for cell, process in running.items() if process.poll() is not None]
            for cell in ended:
                process = running.pop(cell)
                _, errors = process.communicate()
                if process.returncode or cell not in records:
                    lines = errors.strip().splitlines() or [f"ended with status {process.returncode}"]
                    failed[cell] = lines[-1].removeprefix("Error: ")
                else:
                    on_done(cell, len([each for each in waiting if each not in records]))
            if not ended:
                time.sleep(REST)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    if failed:
        cell, why = next(iter(failed.items()))
        others = f" ({len(failed) - 1} others failed too)" if len(failed) > 1 else ""
        raise DataError(f"{cell.name} failed{others}: {why}; the same command tries again")
