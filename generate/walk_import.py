"""The walk checkpoints of the paper's authors (`ali-design/GenRep`), as walks.

Dicts of tensors, D the latent's size: composed, ``walk_zoom``, ``walk_shiftx``, ``walk_shifty``, ``walk_rot2d``,
``walk_rot3d`` (1, D) and ``walk_color`` (1, D, 3); colour alone, ``walk`` (1, D, 3); imitating SimCLR's jitter,
``walk_jit`` (1, D, 4) or for hue alone (1, D, 1), beside a network ``walk_rrc`` for crops, which is no direction.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genrep.generate.edits import EDITS
from genrep.generate.unpickling import load_tensors
from genrep.generate.walks import Walks
from genrep.shards.errors import DataError


class _Part(NamedTuple):
    """One direction of a checkpoint: ``factor * tensor`` is the move for the edit at its full strength."""

    edit: str
    full: float
    factor: float


# the checkpoint's coefficient is the strength over 100 px, 30 or 60 degrees, the colour itself, or ln(shrinking): so a
# zoom is turned round, ours enlarges
_COMPOSED = {
    "walk_zoom": _Part("zoom", math.log(4), -math.log(4)),
    "walk_shiftx": _Part("shift_x", 100.0, 1.0),
    "walk_shifty": _Part("shift_y", 100.0, 1.0),
    "walk_rot2d": _Part("rotation", 30.0, 1.0),
    "walk_rot3d": _Part("rotation_3d", 60.0, 1.0),
}
_COLOUR = [_Part(channel, 0.5, 0.5) for channel in ("red", "green", "blue")]
_HUE = _Part("hue", 0.1, 0.1)
_JITTER = [*(_Part(edit, 0.4, math.log(1.4)) for edit in ("brightness", "contrast", "saturation")), _HUE]


class Imported(NamedTuple):
    """The walks, and a line on each part of the file that is no direction."""

    walks: Walks
    passed_over: list[str]


def import_walks(path: Path, *, generator: str = "") -> Imported:
    """Read a composed, colour or augmentation checkpoint; nothing in it is executed.

    Args:
        generator: Fingerprint of the generator they are for; empty if unknown.

    Raises:
        DataError: If the file is none of the three kinds, or asks for code to run.
    """
    loaded = load_tensors(path)
    if not isinstance(loaded, Mapping):
        raise DataError(f"{path}: holds a {type(loaded).__name__}, not named walks; the authors' files hold a dict")
    parts: dict[str, tuple[_Part, NDArray[np.float64]]] = {}
    passed_over: list[str] = []
    for key, value in loaded.items():
        for part, direction in _directions(str(key), value):
            parts[part.edit] = (part, direction)
        if not _directions(str(key), value):
            passed_over.append(f"{key}: {_why(str(key), value)}")
    if not parts:
        raise DataError(
            f"{path}: no linear walk in it ({'; '.join(passed_over) or 'it is empty'}); "
            f"known: walk_color, {', '.join(_COMPOSED)}, walk, walk_jit"
        )
    dims = sorted({direction.shape[0] for _, direction in parts.values()})
    if len(dims) > 1:
        raise DataError(
            f"{path}: its walks have {' and '.join(map(str, dims))} coordinates; they belong to one generator"
        )
    ordered = [parts[name] for name in EDITS if name in parts]
    names = tuple(part.edit for part, _ in ordered)
    walks = Walks(
        names=names,
        directions=np.stack([part.factor * direction for part, direction in ordered]).astype(np.float32),
        latent_space="z",
        generator=generator,
        full={part.edit: part.full for part, _ in ordered},
        units={name: EDITS[name].unit for name in names},
    )
    return Imported(walks, passed_over)


def _directions(key: str, value: Any) -> list[tuple[_Part, NDArray[np.float64]]]:
    """The directions (D,) that an entry (1, D) or (1, D, K) of the checkpoint holds, none if it is of another kind."""
    if not isinstance(value, Tensor) or value.ndim not in (2, 3) or len(value) != 1:
        return []
    columns = value.detach().double().numpy()[0]
    if key in _COMPOSED and columns.ndim == 1:
        return [(_COMPOSED[key], columns)]
    known = {("walk_color", 3): _COLOUR, ("walk", 3): _COLOUR, ("walk_jit", 1): [_HUE], ("walk_jit", 4): _JITTER}
    if columns.ndim == 1 or (key, columns.shape[1]) not in known:
        return []
    return list(zip(known[key, columns.shape[1]], columns.T, strict=True))


def _why(key: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} is not known"
    return "a network, not a direction" if key == "walk_rrc" else f"a {type(value).__name__}, not a direction"
