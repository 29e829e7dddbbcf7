"""FFCV itself writes the bytes that we write and reads what we wrote; left out where FFCV is not installed."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_sets import tiny_recipe, write_set

import genrep.shards
from genrep.shards.ffcv import export_ffcv

# a process of its own: importing FFCV sets the number of torch's threads
PROGRAM = """
import sys
import numpy as np
import genrep.shards
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.loader import Loader, OrderOption
from ffcv.writer import DatasetWriter

folder, ours, theirs, values = sys.argv[1:]
shards = genrep.shards.open(folder)
grey = shards.channels == 1
image = NDArrayField(np.dtype("|u1"), (*shards.image_shape, 1)) if grey else RGBImageField("raw")
fields = {"anchor": image, "view1": image, "latents": NDArrayField(np.dtype("<f4"), shards.latents(0).shape)}


class Rows:
    def __len__(self):
        return len(shards)

    def __getitem__(self, position):
        sample = shards[position]
        images = sample.images[..., :1] if grey else sample.images
        return *images, sample.latents, sample.label, sample.index


writer = DatasetWriter(theirs, {**fields, "label": IntField(), "index": IntField()}, num_workers=1)
writer.from_indexed_dataset(Rows())
loader = Loader(ours, batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False)
columns = zip(*[[column.numpy().copy() for column in batch] for batch in loader])
np.savez(values, **dict(zip(["anchor", "view1", "latents", "label", "index"], map(np.concatenate, columns))))
"""


@pytest.mark.parametrize("channels", [1, 3])
def test_ffcv_writes_the_same_bytes_and_reads_the_same_values_and_its_process_ends(tmp_path, channels):
    write_set(tmp_path / "set", tiny_recipe(channels=channels))
    shards = genrep.shards.open(tmp_path / "set")
    ours, theirs, values = (tmp_path / name for name in ("ours.beton", "theirs.beton", "values.npz"))
    export_ffcv(shards, ours)
    words = [sys.executable, "-c", PROGRAM, *map(str, (tmp_path / "set", ours, theirs, values))]
    subprocess.run(words, check=True, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ours.read_bytes() == theirs.read_bytes()
    read = np.load(values)
    for index, sample in enumerate(shards):
        images = np.stack([read["anchor"][index], read["view1"][index]])
        np.testing.assert_array_equal(np.broadcast_to(images, sample.images.shape), sample.images)
        np.testing.assert_array_equal(read["latents"][index], sample.latents)
        assert (read["label"][index], read["index"][index]) == (sample.label, sample.index)
