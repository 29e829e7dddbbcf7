"""What a reader hands out, and the ``.json`` member behind its metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """An anchor, its K views and what is known of them.

    Attributes:
        index: Sample index in the set.
        images: uint8 (V, H, W, 3), RGB, the anchor first; one-channel images repeated to three.
        latents: float32 (V, D), one row an image, in the space that was rendered.
        label: The class given to the generator (of an imported image: its own), or -1.
        meta: The ``.json`` member: index, class name, kind and parameters of each view.
    """

    index: int
    images: NDArray[np.uint8]
    latents: NDArray[np.float32]
    label: int
    meta: dict[str, Any]


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def meta_bytes(meta: Mapping[str, Any]) -> bytes:
    """Content of the ``.json`` member."""
    return _encode(meta).encode()


def parse_meta(content: bytes | memoryview) -> dict[str, Any]:
    """Read it; raises ValueError or RecursionError, whatever it holds."""
    value = json.loads(bytes(content))
    if not isinstance(value, dict):
        raise ValueError("JSON of another kind than an object")
    return value
