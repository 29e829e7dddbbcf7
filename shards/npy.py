"""Latents as ``.npy`` files (format version 1.0): float32, little-endian, C order, one row an image."""

import io
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError

_MAGIC = b"\x93NUMPY\x01\x00"
# by hand: numpy's parser of literals takes any, and warns of some
_HEADER = re.compile(
    re.escape(_MAGIC) + rb"..\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,9}), ([0-9]{1,9})\), \} *\n",
    re.DOTALL,
)


@lru_cache
def npy_header(shape: tuple[int, ...]) -> bytes:
    """What precedes the numbers of an array of this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def latents_of(data: bytes | memoryview, *, num_images: int) -> NDArray[np.float32]:
    """The latents in a file, float32 (num_images, D), without a copy and whatever its header claims.

    Raises:
        DataError: If it is no such file.
    """
    header_bytes = len(_MAGIC) + 2 + int.from_bytes(data[8:10], "little")
    match = _HEADER.fullmatch(bytes(data[:header_bytes]))
    shape = (int(match[1]), int(match[2])) if match else (0, 0)
    if match is None or shape[0] != num_images or len(data) != header_bytes + 4 * shape[0] * shape[1]:
        raise DataError(f"is no npy file of float32 ({num_images}, D) in {len(data):,} bytes")
    return np.frombuffer(data, "<f4", offset=header_bytes, count=shape[0] * shape[1]).reshape(shape)
