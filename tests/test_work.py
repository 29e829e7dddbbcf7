"""How much work a sample costs, in counts that no other work on the machine can change; seconds are for bench/."""

import itertools
import platform
import subprocess
import sys
import threading
from hashlib import sha256

import pytest

import genrep.shards
from genrep.generate.defaults import make_recipe
from genrep.generate.fashion import FashionGenerator
from genrep.generate.generation import generate
from genrep.generate.generators import load_generator
from genrep.shards import atomic, reader, verify, writer
from genrep.train.config import resolve
from genrep.train.data import Loader

NUM_PAIRS, SHARD, BATCH = 256, 128, 64

# Python functions entered a pair, drawing and rendering in batches of 64 included: 33 and 21 when this was written
MOST_CALLS_TO_WRITE, MOST_CALLS_TO_READ = 40, 25


def write(folder, num_pairs=NUM_PAIRS):
    recipe = make_recipe(load_generator("fashion"), num_samples=num_pairs, shard_size=SHARD, micro_batch=BATCH)
    generate(recipe, folder, device="cpu")
    return folder


def read(folder, num_pairs=NUM_PAIRS):
    shards = genrep.shards.open(folder)
    config = resolve(shards, method="simclr", views="both", batch_size=BATCH, steps=num_pairs // BATCH)
    return sum(len(batch.samples) for batch in Loader(shards, config).batches(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture
def counted(monkeypatch):
    """Replace a function by itself with a counter; ``of`` says how much a call counts."""

    def replace(module, name, of):
        counts, function = [], getattr(module, name)

        def counting(*arguments, **named):
            counts.append(of(*arguments, **named))
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, counting)
        return counts

    return replace


@pytest.fixture
def hashed(monkeypatch):
    """Bytes that a module gives to sha256."""

    def replace(module):
        counts = []

        class Counting:
            def __init__(self, content=b""):
                self._digest = sha256()
                self.update(content)
                self.digest, self.hexdigest = self._digest.digest, self._digest.hexdigest

            def update(self, content):
                counts.append(len(content))
                self._digest.update(content)

        monkeypatch.setattr(module, "sha256", Counting)
        return counts

    return replace


def tar_bytes(folder):
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def member_bytes(folder):
    shards = genrep.shards.open(folder)
    return sum(len(content) for index in range(len(shards)) for content in shards.members(index).values())


def python_calls(work):
    """Python functions entered in all threads."""
    counter = itertools.count()

    def profile(frame, event, argument):
        if event == "call":
            next(counter)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return next(counter)


def test_every_image_is_rendered_once_and_encoded_once(tmp_path, counted):
    rendered = counted(FashionGenerator, "render", lambda generator, latents, labels: len(latents))
    encoded = counted(writer, "encode", lambda images, **how: len(images))
    write(tmp_path / "set")
    assert sum(rendered) == 2 * NUM_PAIRS
    assert sum(encoded) == 2 * NUM_PAIRS


def test_writing_hashes_every_member_once_and_every_tar_once_and_writes_it_once(tmp_path, counted, hashed):
    bytes_hashed = hashed(writer)
    written = counted(atomic, "_write_new", lambda path, content, **how: len(content) * (".tar." in path.name))
    folder = write(tmp_path / "set")
    assert sum(bytes_hashed) == member_bytes(folder) + tar_bytes(folder)
    assert sum(written) == tar_bytes(folder)


def test_an_image_is_decoded_once_each_time_it_is_shown(folder, counted):
    decoded = counted(reader, "decode_into", lambda data, out: 1)
    assert read(folder) == NUM_PAIRS
    assert len(decoded) == 2 * NUM_PAIRS


def test_verify_hashes_every_byte_once_and_decodes_nothing(folder, counted, hashed):
    decoded, bytes_hashed = counted(verify, "check", lambda data, image: 1), hashed(verify)
    assert verify.verify(folder) == []
    assert decoded == []
    assert sum(bytes_hashed) == tar_bytes(folder)


def test_deep_verify_decodes_every_image_once_and_hashes_every_byte_at_most_twice(folder, counted, hashed):
    decoded, bytes_hashed = counted(verify, "check", lambda data, image: 1), hashed(verify)
    assert verify.verify(folder, deep=True) == []
    assert len(decoded) == 2 * NUM_PAIRS
    assert sum(bytes_hashed) == tar_bytes(folder) + member_bytes(folder)


def test_writing_a_pair_enters_few_python_functions(tmp_path):
    write(tmp_path / "first", SHARD)  # what is imported or compiled once
    few = python_calls(lambda: write(tmp_path / "few", SHARD))
    many = python_calls(lambda: write(tmp_path / "many", 3 * SHARD))
    assert (many - few) / (2 * SHARD) <= MOST_CALLS_TO_WRITE


def test_reading_a_pair_enters_few_python_functions(folder):
    read(folder, BATCH)
    few, many = (python_calls(lambda num_pairs=num_pairs: read(folder, num_pairs)) for num_pairs in (BATCH, NUM_PAIRS))
    assert (many - few) / (NUM_PAIRS - BATCH) <= MOST_CALLS_TO_READ


ONE_BATCH_AFTER_ANOTHER = """
import resource
import numpy as np
from genrep.shards.memory import keep_memory

keep_memory()
for _ in range(2):  # as much as two views of 256 images of 128 px, then as little as two of 28 px
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (100_000_000, 1_600_000):
        np.ones(size, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_the_next_batch_lies_in_the_memory_of_the_last_and_the_system_clears_no_page_for_it():
    done = subprocess.run([sys.executable, "-c", ONE_BATCH_AFTER_ANOTHER], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10  # anew it would be 49 pages of 2 MB, where the system gives such, or 24,800 of 4 kB
