"""Cells as Slurm jobs, through the package submitit (extra slurm); all machines must see the folder of the study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from genrep.evaluate.studies.work import Order, do
from genrep.shards.errors import DataError

DEFAULTS: dict[str, Any] = {"timeout_min": 60, "cpus_per_task": 1, "mem_gb": 8}


class _Submitted(Protocol):
    """What is used of submitit's job."""

    def done(self) -> bool: ...

    def exception(self) -> BaseException | None: ...

    def result(self) -> Any: ...

    def cancel(self) -> None: ...

    def wait(self) -> None: ...


class Job:
    """A submitted cell, with the methods of a process that the runner uses.

    Attributes:
        returncode: 0 if the cell was done, 1 if it failed, None before.
    """

    def __init__(self, submitted: _Submitted) -> None:
        self._submitted = submitted
        self._fault = ""
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and self._submitted.done():
            error = self._submitted.exception()
            self._fault = str(error).strip() if error else self._submitted.result()
            self.returncode = int(bool(self._fault))
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        return "", self._fault

    def terminate(self) -> None:
        self._submitted.cancel()

    def wait(self) -> None:
        """Nothing: a cancelled job ends by itself."""


class Cluster:
    """Submits cells.

    Args:
        folder: Where submitit keeps its logs.
        parameters: Of submitit's executor, such as ``slurm_partition``, ``timeout_min``, ``mem_gb``.
        kind: ``slurm``; ``local`` runs jobs as processes of this machine.

    Raises:
        DataError: If submitit is missing, there is no Slurm here, or a parameter is unknown.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any], *, kind: str = "slurm") -> None:
        try:
            import submitit
        except ImportError:
            raise DataError("Slurm jobs go through submitit: pip install 'genrep[slurm]'") from None
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=kind)
            self._executor.update_parameters(**{**DEFAULTS, **parameters})
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise DataError(
                f"Slurm jobs cannot be made ({error}): run where sbatch is, with --slurm as submitit has it"
            ) from error

    def start(self, order: Order) -> Job:
        return Job(self._executor.submit(do_told, order.to_json()))


def do_told(order: str) -> str:
    """Do a cell; returns what was wrong, or nothing."""
    try:
        do(Order.from_json(order))
    except DataError as error:
        return str(error)
    return ""
