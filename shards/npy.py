"""Latents as ``.npy`` files (format version 1.0): float32, little-endian, C order, one row an image."""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError

_MAGIC = b"\x93NUMPY\x01\x00"


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
    header_bytes = 10 + int.from_bytes(data[8:10], "little")
    header = bytes(data[:header_bytes])
    shape = _shape(header) if len(header) == header_bytes and header.startswith(_MAGIC) else ()
    if len(shape) != 2 or shape[0] != num_images or shape[1] < 0 or len(data) != header_bytes + 4 * shape[0] * shape[1]:
        raise DataError(f"is no npy file of float32 ({num_images}, D) in {len(data):,} bytes")
    return np.frombuffer(data, "<f4", offset=header_bytes, count=shape[0] * shape[1]).reshape(shape)


@lru_cache
def _shape(header: bytes) -> tuple[int, ...]:
    """Shape of float32 arrays in C order; of any other no shape at all."""
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header[len(_MAGIC) :]))
    except Exception:  # numpy raises whatever its parser of literals meets
        return ()
    return shape if dtype == np.dtype("<f4") and not is_fortran else ()
