"""A run probed while it trains: every new checkpoint, on held-out training images, never on test images."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from genrep.evaluate.data import Part, RealData
from genrep.evaluate.features import Labelled, Progress, backbone_encoder, extract
from genrep.evaluate.knn import KnnProbe
from genrep.evaluate.result import score
from genrep.evaluate.shift import Shift
from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.train.checkpoint import checkpoints, load_backbone
from genrep.train.run import CONFIG

FORMAT = "genrep-follow/1"
REST = 2.0  # seconds between looks


def follow(
    run: Path,
    data: RealData,
    probe: KnnProbe,
    out: Path,
    *,
    shift: Shift = "none",
    seed: int = 0,
    device: str = "cpu",
    rest: Callable[[], None] = lambda: time.sleep(REST),
    progress: Progress = lambda what, done, total: None,
    command: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure each checkpoint of a run as it comes, earliest first, until that of the run's last step is measured.

    The numbers are for choices, so they are taken of the held-out part of the training images. Checkpoints that
    ``out`` has already are not measured again; those that the trainer removes before their turn are not measured.

    Args:
        out: JSON lines, one a checkpoint; they are yielded too.
        rest: Called where there is nothing to do yet.

    Raises:
        DataError: If a checkpoint, the data or ``out`` cannot be read, features are not finite, or ``out`` cannot be
            written.
    """
    measured = _measured(out)
    while True:
        waiting = [path for path in checkpoints(run) if path.name not in measured]
        if not waiting:
            if _is_finished(run):
                return
            rest()
            continue
        path = waiting[0]
        measured.add(path.name)
        try:
            loaded = load_backbone(path)
        except DataError:
            if path.exists():
                raise
            continue  # the trainer keeps the last few
        encoder = backbone_encoder("backbone", loaded, loaded.module, {"checkpoint": loaded.sha256})

        def features(part: Part, encoder: Any = encoder) -> Labelled:
            rows = extract(encoder, part, shift=shift, device=device, progress=progress)
            return Labelled(rows.to(device), torch.from_numpy(part.labels).to(device))

        held_out = features(data.held_out)
        model = probe.fit(features(data.fit), held_out, num_classes=len(data.class_names), seed=seed)
        found = score(
            model.predict(held_out.features).cpu().numpy(),
            data.held_out.labels,
            data.class_names,
            feature_width=held_out.features.shape[1],
            settings=model.settings,
            drawn=probe.labels_per_class is not None,
        )
        line = {
            "format": FORMAT,
            "measure": probe.name,
            "unit": f"fraction of {len(data.held_out.labels)} held-out training images",
            "checkpoint_path": str(path),
            "step": _step(path),
            "top1": found.top1,
            "interval": found.interval,
            "interval_kind": found.interval_kind,
            "data": data.name,
            "data_sha256": data.sha256,
            "shift": shift,
            "seed": seed,
            "labels_per_class": probe.labels_per_class,
            "checkpoint": loaded.sha256,
            "command": command,
        }
        with atomic.reported(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        yield line


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _is_finished(run: Path) -> bool:
    """Whether the last checkpoint is that of the last step."""
    last = max(checkpoints(run), default=None)
    if last is None:
        return False
    try:
        return _step(last) >= json.loads((run / CONFIG).read_text())["config"]["steps"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run / CONFIG} cannot be read ({error!r}): name the folder of a run of genrep-train"
        ) from error


def _measured(out: Path) -> set[str]:
    """Names of the checkpoints that a file of lines speaks of."""
    try:
        lines = out.read_text().splitlines() if out.exists() else []
        return {Path(json.loads(line)["checkpoint_path"]).name for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{out} cannot be read ({error!r}): remove it to measure all checkpoints again") from error
