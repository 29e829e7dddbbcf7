"""Runs of genrep-generate in processes of their own, forked from a server that has imported torch once."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["genrep.generate.command", "genrep.generate.plan", __name__])


class ChildRun:
    """``genrep-generate ARGUMENTS`` in ``folder``; ``environment`` is added to what the tests have."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._log = folder / f"{time.monotonic_ns()}.log"
        self._process = _context.Process(target=_run, args=(folder, arguments, environment, self._log))
        self._process.start()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until it holds; a run that ends before, or a minute without it, is an error."""
        end = time.monotonic() + 60
        while not condition():
            assert self._process.is_alive(), self.output()
            assert time.monotonic() < end, "nothing happened in time"
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def status(self) -> int:
        """Exit status, once it has ended; minus the signal that ended it."""
        self._process.join(60)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def output(self) -> str:
        return self._log.read_text()


def _run(folder: Path, arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
    from genrep.generate.command import main

    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    main(list(arguments), prog_name="genrep-generate")
