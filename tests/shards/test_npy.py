import io

import numpy as np
import pytest

from genrep.shards.errors import DataError
from genrep.shards.npy import latents_of, npy_header


def saved(array, **how):
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


@pytest.mark.parametrize("shape", [(2, 128), (1, 0), (21, 3)])
def test_latents_are_the_files_that_numpy_writes(shape):
    latents = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    data = npy_header(shape) + latents.tobytes()
    assert data == saved(latents)
    assert np.array_equal(latents_of(memoryview(data), num_images=shape[0]), latents)


def header_only(text):
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        saved(np.zeros((3, 4), np.float32)),
        saved(np.zeros((2, 4), np.float64)),
        saved(np.zeros((2, 4), ">f4")),
        saved(np.zeros((2, 4), np.float32, order="F")),
        saved(np.zeros(8, np.float32)),
        saved(np.zeros((2, 4), np.float32))[:-1],
        saved(np.zeros((2, 4), np.float32)) + b"\0",
        saved(np.array([{}, {}]), allow_pickle=True),
        header_only("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1000000000000), }"),
        header_only("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -4), }"),
        header_only("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 'x'), }"),
        header_only("{'descr': '<f4', 'fortran_order': False, 'shape': (2, True), }"),
        header_only("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 4), }") + bytes(32),
        header_only("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0or 4), }") + bytes(32),
        header_only("__import__('os').abort()"),
        header_only("(" * 9000),
    ],
)
def test_anything_but_float32_rows_of_its_own_size_is_refused_without_a_warning(data, recwarn):
    with pytest.raises(DataError, match=r"no npy file of float32 \(2, D\)"):
        latents_of(data, num_images=2)
    assert recwarn.list == []
