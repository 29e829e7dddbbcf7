"""Steering directions: what a set of walks holds, on disk as safetensors and inside a recipe as JSON."""

import base64
import binascii
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.shards import atomic
from genrep.shards.errors import DataError

FORMAT = "genrep-walks/1"
LATENT_SPACES = ("z", "w")
MAX_WALKS = 4096  # a recipe carries its walks in full

_TENSOR = "directions"
_METADATA = "genrep"  # one key: safetensors writes several in no fixed order
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # part of a column's name: view1.zoom
_FIELDS = ("format", "names", "latent_space", "generator", "full", "units")


@dataclass(frozen=True, eq=False)
class Walks:
    """Linear directions of a latent space; a steered view is ``z + sum over e of c_e * directions[e]``, c_e in [-1, 1].

    Attributes:
        names: One a direction, W of them, each once.
        directions: float32 (W, D), the move at coefficient 1; read-only.
        latent_space: ``"z"`` or ``"w"``.
        generator: Fingerprint of the generator they were made for; empty if unknown.
        full: Strength of the pixel edit that a direction was made for at coefficient 1, in its unit; for a
            direction made for none (SeFa, principal components, random) its length.
        units: Unit of that strength.

    Raises:
        DataError: If the parts do not fit together.
    """

    names: tuple[str, ...]
    directions: NDArray[np.float32]
    latent_space: str
    generator: str
    full: dict[str, float]
    units: dict[str, str]

    def __post_init__(self) -> None:
        directions = np.array(self.directions, np.float32, order="C")  # a copy: the caller's stays writable
        directions.setflags(write=False)
        object.__setattr__(self, "directions", directions)
        problem = self._problem()
        if problem:
            raise DataError(f"walks: {problem}; genrep-walks train, sefa, pca, random or import makes them")

    def _problem(self) -> str | None:
        names = self.names
        if not 1 <= len(names) <= MAX_WALKS:
            return f"{len(names)} directions; there must be 1 to {MAX_WALKS}"
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                return f"{name!r:.80} is no name of a direction (letters, digits, - and _, at most 64)"
        if len(set(names)) < len(names):
            return f"a name occurs twice in {', '.join(names)}"
        if self.directions.ndim != 2 or len(self.directions) != len(names) or not self.directions.size:
            return f"directions have shape {self.directions.shape}; {len(names)} names need ({len(names)}, D)"
        if not np.isfinite(self.directions).all():
            return "directions hold values that are no numbers"
        if self.latent_space not in LATENT_SPACES:
            return f"latent_space is {self.latent_space!r:.40}; known: {', '.join(LATENT_SPACES)}"
        if not isinstance(self.generator, str):
            return "generator must be a fingerprint or empty"
        for field, value in (("full", self.full), ("units", self.units)):
            if not isinstance(value, dict) or set(value) != set(names):
                return f"{field} must name each of {', '.join(names)} and no other"
        for name, strength in self.full.items():
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength < math.inf:
                return f"full strength of {name} is {strength!r:.40}; it must be a positive number"
        if not all(isinstance(unit, str) for unit in self.units.values()):
            return "units must be text"
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Walks) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def latent_dim(self) -> int:
        """Coordinates D of a direction."""
        return self.directions.shape[1]

    @property
    def sha256(self) -> str:
        """Identity of the walks: hexadecimal, over all fields."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Self-contained: the directions as base64 of little-endian float32."""
        little_endian = self.directions.astype("<f4").tobytes()
        return {
            **self._header(),
            "latent_dim": self.latent_dim,
            "directions": base64.b64encode(little_endian).decode("ascii"),
        }

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "Walks":
        """Raises DataError for whatever :meth:`to_json` did not write."""
        header = _checked_header(plain, "walks", ("latent_dim", "directions"))
        dim, text = plain["latent_dim"], plain["directions"]
        try:
            values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
        except (binascii.Error, ValueError, TypeError) as error:
            raise DataError(f"walks: directions are not base64 of float32 values ({error})") from error
        count = len(header["names"])
        if isinstance(dim, bool) or not isinstance(dim, int) or values.size != count * dim:
            raise DataError(f"walks: {values.size} values are not {count} directions of latent_dim {dim!r:.20}")
        return Walks(directions=values.reshape(count, dim).astype(np.float32), **header)

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "names": list(self.names),
            "latent_space": self.latent_space,
            "generator": self.generator,
            "full": {name: float(self.full[name]) for name in self.names},
            "units": {name: self.units[name] for name in self.names},
        }


def save_walks(walks: Walks, path: str | os.PathLike[str]) -> None:
    """Write a safetensors file: tensor ``directions`` float32 (W, D), the rest as JSON under the metadata key genrep.

    Equal walks give equal bytes; an existing file is replaced whole.

    Raises:
        DataError: If it cannot be written.
    """
    from safetensors.numpy import save

    path = Path(path)
    with atomic.reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, save({_TENSOR: walks.directions}, metadata={_METADATA: json.dumps(walks._header())}))


def load_walks(path: str | os.PathLike[str]) -> Walks:
    """Read what :func:`save_walks` wrote.

    Raises:
        DataError: If the file is missing, damaged or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of walks; genrep-walks train makes one")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, keys = file.metadata() or {}, list(file.keys())
            directions = file.get_tensor(_TENSOR) if _TENSOR in keys else None
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: not a safetensors file of walks ({_first_line(error)}); "
            "genrep-walks import converts the authors' checkpoints"
        ) from error
    if directions is None or _METADATA not in metadata:
        raise DataError(f"{path}: the file holds {', '.join(keys[:6]) or 'nothing'}, not walks; name a file of walks")
    try:
        plain = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the description of the walks is damaged ({_first_line(error)})") from error
    if directions.dtype != np.float32:
        raise DataError(f"{path}: the directions are {directions.dtype}, walks are float32")
    return Walks(directions=directions, **_checked_header(plain, str(path), ()))


def _checked_header(plain: Any, where: str, further: tuple[str, ...]) -> dict[str, Any]:
    """The fields but the directions, of the right kinds; ``further`` are fields that must stand beside them."""
    if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
        raise DataError(f"{where}: not of format {FORMAT!r}; written by a later version, or not walks")
    for name in (*_FIELDS, *further):
        if name not in plain:
            raise DataError(f"{where}: field {name!r} is missing")
    unknown = sorted(set(plain) - {*_FIELDS, *further})
    if unknown:
        raise DataError(f"{where}: unknown field {unknown[0]!r:.80}")
    if not isinstance(plain["names"], list):
        raise DataError(f"{where}: names must be a list")
    return {name: plain[name] for name in _FIELDS if name != "format"} | {"names": tuple(plain["names"])}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
