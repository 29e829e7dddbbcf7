import gzip
import struct

import numpy as np
import pytest

from genrep.shards import fashion_mnist
from genrep.shards.errors import DataError


def write_idx(path, array, *, packed=True):
    content = struct.pack(f">i{array.ndim}i", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture
def folder(tmp_path):
    images = np.arange(60_000 * 4).reshape(60_000, 2, 2) % 251
    labels = np.arange(60_000) % 10
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels, packed=False)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images[:10_000] + 1)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels[:10_000])
    return tmp_path


def test_the_split_is_the_first_54000_the_last_6000_and_the_test_file(folder):
    learn, held_out, test = (fashion_mnist.load(part, root=folder) for part in ("learn", "held-out", "test"))
    assert (len(learn.images), len(held_out.images), len(test.images)) == (54_000, 6_000, 10_000)
    assert learn.images[0].tolist() == [[0, 1], [2, 3]]
    assert held_out.images[0].ravel().tolist() == [(54_000 * 4 + k) % 251 for k in range(4)]
    assert test.images[0].tolist() == [[1, 2], [3, 4]]
    assert held_out.labels[:3].tolist() == [0, 1, 2]


def test_a_missing_data_set_says_where_it_was_sought_and_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=rf"not in {tmp_path}.*dataset-fashion-mnist.*GENREP_FASHION_MNIST"):
        fashion_mnist.load("learn", root=tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"\0\0\0\0" + data, lambda data: b""]
)
def test_a_damaged_file_is_refused_by_name(folder, damage):
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        fashion_mnist.load("learn", root=folder)
