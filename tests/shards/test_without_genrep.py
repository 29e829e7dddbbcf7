"""Anyone can read a set: the readers below run in a process of their own that never imports genrep."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from tiny_sets import expected_sample, tiny_recipe, write_set

READERS = {
    "tarfile": """
import io, tarfile
import numpy
from PIL import Image
for name in ("shard-000000.tar", "shard-000001.tar", "shard-000002.tar"):
    with tarfile.open(folder / name) as file:
        read = {member.name.partition("."): file.extractfile(member).read() for member in file}
    for key in sorted({key for key, _, _ in read}):
        image = lambda member: numpy.asarray(Image.open(io.BytesIO(read[key, ".", member])))
        latents = numpy.load(io.BytesIO(read[key, ".", "latents.npy"]), allow_pickle=False)
        tell(key, image("anchor.png"), image("view1.png"), latents, int(read[key, ".", "cls"]))
""",
    "webdataset": """
import webdataset
urls = str(folder / "shard-{000000..000002}.tar")
for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("l8"):
    tell(sample["__key__"], sample["anchor.png"], sample["view1.png"], sample["latents.npy"], sample["cls"])
""",
    "datasets": """
import datasets, numpy
for sample in datasets.load_dataset(str(folder), split="train"):
    images = numpy.asarray(sample["anchor.png"]), numpy.asarray(sample["view1.png"])
    tell(sample["__key__"], *images, numpy.asarray(sample["latents.npy"]), int(sample["cls"]))
""",
    "datasets, its builder named": """
import datasets, numpy
tars = str(folder / "shard-*.tar")
for sample in datasets.load_dataset("webdataset", data_files=tars, split="train", streaming=True):
    images = numpy.asarray(sample["anchor.png"]), numpy.asarray(sample["view1.png"])
    tell(sample["__key__"], *images, numpy.asarray(sample["latents.npy"]), int(sample["cls"]))
""",
}
PROGRAM = """
import json, pathlib, sys, warnings
warnings.simplefilter("ignore")
folder = pathlib.Path(sys.argv[1])
told = []
def tell(key, anchor, view, latents, label):
    told.append([key, anchor.tolist(), view.tolist(), latents.tolist(), label])
{reader}
assert not any(name.startswith("genrep") for name in sys.modules)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def grey_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "set"
    write_set(folder, tiny_recipe())
    return folder


def run_alone(program, *, cache, folder):
    return subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        check=False,
    )


@pytest.mark.parametrize("reader", READERS)
def test_a_common_reader_gives_anchor_view_latents_and_label_of_every_sample(tmp_path, grey_set, reader):
    done = run_alone(PROGRAM.format(reader=READERS[reader]), cache=tmp_path, folder=grey_set)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 10
    for index, (key, anchor, view, latents, label) in enumerate(found):
        images, expected_latents, expected_label, _ = expected_sample(tiny_recipe(), index)
        assert key == f"{index:09d}"
        assert np.array_equal([anchor, view], images[..., 0])
        assert np.array_equal(np.reshape(latents, (2, 4)), expected_latents)
        assert label == expected_label


def test_the_hub_header_names_the_tars_alone(grey_set):
    lines = (grey_set / "README.md").read_text().splitlines()
    assert lines[:5] == ["---", "configs:", "- config_name: default", "  data_files: shard-*.tar", "---"]


def test_the_lines_of_python_in_the_readme_are_true(tmp_path, grey_set):
    text = (grey_set / "README.md").read_text().replace("path/to/this/folder", str(grey_set))
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    told = "print(sample['__key__'], latents[1][3] if isinstance(latents, list) else latents[1, 3], label)"
    done = run_alone("\n".join(f"{block}\n{told}" for block in blocks), cache=tmp_path, folder=grey_set)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["000000000 0.875 0", "000000009 9.875 1"]
