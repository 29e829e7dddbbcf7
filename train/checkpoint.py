"""What a run leaves on disk: enough to continue it to the bit, and to use its backbone."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.train.backbones import Backbone, build_backbone
from genrep.train.config import TrainConfig

FORMAT = "genrep-checkpoint/1"
FOLDER = "checkpoints"
KEPT = 3

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LoadedBackbone:
    """A trained backbone and how its images are prepared.

    Attributes:
        module: (B, 3, image_size, image_size) float -> features (B, F), in eval mode on the CPU.
        name: As :func:`~genrep.train.backbones.build_backbone` takes it.
        image_size: Side of the centre crop, px.
        resize_size: What the short side is resized to before, px.
        mean, std: Of the normalisation, per channel of images in [0, 1].
        sha256: Of the checkpoint file.
        config: The run's, as in ``config.json``.
    """

    module: Backbone
    name: str
    image_size: int
    resize_size: int
    mean: Triple
    std: Triple
    sha256: str
    config: dict[str, Any]


def save_checkpoint(run: Path, step: int, config: TrainConfig, states: dict[str, Any], *, keep: int = KEPT) -> Path:
    """Write the checkpoint after ``step`` updates; it appears whole or not at all, and the last ``keep`` stay.

    Order and augmentation are functions of (seed, step): no state of a random generator is needed. The last are kept,
    not the best: what is best could only be told from data to evaluate on.

    Args:
        states: State dicts of ``backbone``, of the heads by name, and of ``optimiser``.
    """
    folder = run / FOLDER
    with atomic.reported(folder):
        folder.mkdir(exist_ok=True)
    atomic.remove_stale(folder)  # what a killed process was writing
    content = io.BytesIO()
    torch.save(_canonical({"format": FORMAT, "step": step, "config": config.to_json(), **states}, {}), content)
    path = folder / f"step-{step:08d}.pt"
    atomic.write(path, content.getvalue())
    for old in checkpoints(run)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def _canonical(value: Any, seen: dict[Any, Any]) -> Any:
    """The same value with one object for all that is equal.

    A file names an object that comes again instead of repeating it, and which objects are shared differs between a
    run that was continued and one that was not: their files shall have the same hash.
    """
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, dict):
        return {_canonical(name, seen): _canonical(entry, seen) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry, seen) for entry in value]
    return seen.setdefault((type(value), value), value)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, earliest first."""
    return sorted((run / FOLDER).glob("step-*.pt"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU; nothing in the file is executed.

    Raises:
        DataError: If it is missing, damaged or no checkpoint of this program.
    """
    return _read(path)[0]


def load_backbone(path: Path | str) -> LoadedBackbone:
    """The backbone of a run folder (its last checkpoint) or of one checkpoint file.

    Raises:
        DataError: If there is none, or its weights are not exactly those of the backbone it names.
    """
    path = Path(path)
    if path.is_dir():
        found = checkpoints(path)
        if not found:
            raise DataError(f"{path} holds no {FOLDER}/step-*.pt: name the folder of a run of genrep-train")
        path = found[-1]
    content, sha256 = _read(path)
    try:
        config = TrainConfig.from_json(content["config"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} has settings of another version of genrep ({error}): train it again") from error
    module = build_backbone(config.backbone)
    load_strictly(module, content["backbone"], where=f"{path}: the backbone {config.backbone}")
    module.eval().requires_grad_(False)
    return LoadedBackbone(
        module=module,
        name=config.backbone,
        image_size=config.crop,
        resize_size=config.resize,
        mean=config.mean,
        std=config.std,
        sha256=sha256,
        config=content["config"],
    )


def load_strictly(module: nn.Module, state: dict[str, Any], *, where: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        DataError: Naming the first missing, unknown or wrongly shaped entries.
    """
    own = module.state_dict()
    faults = [f"no {name}" for name in own if name not in state]
    faults += [f"unknown {name}" for name in state if name not in own]
    faults += [
        f"{name} of shape {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DataError(
            f"{where} has other weights: {', '.join(faults[:3])}{more}; use the checkpoint of this backbone"
        )
    module.load_state_dict(state)


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        data = path.read_bytes()
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever it meets in a damaged file
        raise DataError(
            f"{path} cannot be read as a checkpoint ({' '.join(str(error).split())[:120]}): name a run folder of "
            "genrep-train, or remove this file to continue from the checkpoint before"
        ) from error
    parts = {"step", "config", "backbone", "optimiser"}
    if not isinstance(content, dict) or content.get("format") != FORMAT or not parts <= content.keys():
        raise DataError(f"{path} is not a {FORMAT} checkpoint: name a run folder of genrep-train or a file in it")
    return content, hashlib.sha256(data).hexdigest()
