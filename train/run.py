"""The folder of a run: its config, its metrics, and the right of one process to write there."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.train.config import TrainConfig

FORMAT = "genrep-run/1"
CONFIG = "config.json"
METRICS = "metrics.jsonl"


def check_run(run: Path, config: TrainConfig) -> None:
    """See that ``run`` is free or holds a run of this config.

    Raises:
        DataError: Naming the settings that differ with both values, or if the folder is something else.
    """
    path = run / CONFIG
    try:
        if not path.exists():
            if any(not file.name.startswith(".") for file in run.glob("*")):
                raise DataError(f"{run} holds other things and no {CONFIG}: choose a new --out")
            return
        found = _flat(_with_defaults(json.loads(path.read_text())["config"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}): choose a new --out") from error
    asked = _flat(json.loads(json.dumps(config.to_json())))
    differing = [
        f"{name} {json.dumps(found.get(name))} (asked: {json.dumps(asked.get(name))})"
        for name in dict.fromkeys([*asked, *found])
        if found.get(name) != asked.get(name)
    ]
    if differing:
        raise DataError(
            f"{run} holds another run, with {', '.join(differing)}: ask for the same to continue it, or choose a new "
            "--out"
        )


@contextmanager
def open_run(
    run: Path, config: TrainConfig, *, step: int, record: dict[str, Any]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What appends an object to the run's ``metrics.jsonl``, which is to be continued after ``step``.

    The folder is made if need be. Metrics of later steps, left by a process that died after its last checkpoint, are
    cut off, so each step stands once.

    Args:
        record: What ``config.json`` says beside the config (data set, command, environment).

    Raises:
        DataError: If another process is training there, or something cannot be written.
    """
    content = {"format": FORMAT, **record, "config": config.to_json()}
    with atomic.reported(run):
        run.mkdir(parents=True, exist_ok=True)
    atomic.create(run / CONFIG, json.dumps(content, indent=1).encode() + b"\n")
    path = run / METRICS
    with _held(run), open(path, "a+") as metrics:
        _cut(metrics, step)

        def append(line: dict[str, Any]) -> None:
            with atomic.reported(path):
                metrics.write(json.dumps(line) + "\n")
                metrics.flush()

        yield append


@contextmanager
def _held(run: Path) -> Iterator[None]:
    """Keep other trainers out; the lock ends with the process, however that ends."""
    with open(run / CONFIG) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{run} is being trained by another process: wait for it, or choose a new --out") from error
        except OSError:  # a file system without locks
            pass
        yield


def _cut(metrics: IO[str], step: int) -> None:
    """Keep the whole lines up to ``step``."""
    metrics.seek(0)
    kept = 0
    for line in iter(metrics.readline, ""):
        try:
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
        except ValueError:  # what a power cut left
            break
        kept = metrics.tell()
    metrics.truncate(kept)


def _with_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """The config of an older version has fewer fields: the others had their defaults."""
    try:
        return json.loads(json.dumps(TrainConfig.from_json(fields).to_json()))
    except (KeyError, TypeError):  # of a newer one: the comparison will name what differs
        return fields


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested objects as one, with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}" if name else key).items()}
