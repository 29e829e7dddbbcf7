"""Real images with labels, in three parts: one to fit on, one for every choice, one to test on, once."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.evaluate.draws import words
from genrep.shards import atomic
from genrep.shards.cache import cache_folder
from genrep.shards.errors import DataError

Source = Literal["train", "test"]
Images = list[NDArray[np.uint8]]
Rows = range | NDArray[np.int64]

HELD_OUT = 0.1  # of each class, where a data set names no held-out part itself
SIDE = 32  # px: what the floors see of photographs
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_HASHED_AT_ONCE = 4096


@dataclass(frozen=True)
class Part:
    """Labelled images, read when they are asked for.

    Attributes:
        source: The split it was taken from.
        positions: int64 (N,), of each image in that split; with ``source`` they key its random shift.
        labels: int64 (N,), classes 0..C-1.
        read: Images uint8 (H, W, C) of some rows, C in {1, 3}.
    """

    source: Source
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    read: Callable[[Rows], Images]


@dataclass(frozen=True)
class RealData:
    """A data set to measure on.

    Attributes:
        name: As given to :func:`~genrep.evaluate.data.open_data`.
        side: Side of the square images that raw pixels and the untrained convolution see, px.
        sha256: Of all images and labels.
        fit, held_out, test: For weights; for choices; for the number reported.
    """

    name: str
    class_names: tuple[str, ...]
    side: int
    sha256: str
    fit: Part
    held_out: Part
    test: Part


@dataclass(frozen=True)
class Split:
    """All labelled images of one split of a data set.

    Attributes:
        names: One an image, within the data set.
        labels: int64 (N,).
        content: Bytes of an image by its position; from several threads at once.
        decode: These bytes and where they lie, for a message -> uint8 (H, W, C).
        files: Where the images lie, if each is a file.
    """

    names: Sequence[str]
    labels: NDArray[np.int64]
    content: Callable[[int], bytes]
    decode: Callable[[bytes, str], NDArray[np.uint8]]
    files: Sequence[Path] | None = None

    def read(self, positions: NDArray[np.int64]) -> Images:
        def image(position: int) -> NDArray[np.uint8]:
            return self.decode(self.content(position), self.names[position])

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # decoders release the GIL
            return list(pool.map(image, positions.tolist()))

    def hash(self) -> bytes:
        """sha256 of names, labels and contents.

        That of files is kept in the cache folder, and computed again where size or time of change of any file differs.
        """
        if self.files is None:
            return self._hash()
        listing = hashlib.sha256()
        for file, name, label in zip(self.files, self.names, self.labels, strict=True):
            with _readable(file):
                stat = file.stat()
            listing.update(f"{file.absolute()}\0{name}\0{label}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        kept = cache_folder() / "hashes" / listing.hexdigest()
        try:
            return bytes.fromhex(kept.read_text())
        except (OSError, ValueError):  # not there yet, or damaged
            digest = self._hash()
        with atomic.reported(kept.parent):
            kept.parent.mkdir(exist_ok=True)
        atomic.write(kept, digest.hex().encode())
        return digest

    def _hash(self) -> bytes:
        digest = hashlib.sha256()
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing releases the GIL
            for first in range(0, len(self.names), _HASHED_AT_ONCE):
                some = range(first, min(first + _HASHED_AT_ONCE, len(self.names)))
                for position, content in zip(some, pool.map(self._hash_of, some), strict=True):
                    digest.update(f"{self.names[position]}\0{self.labels[position]}\0".encode())
                    digest.update(content)
        return digest.digest()

    def _hash_of(self, position: int) -> bytes:
        return hashlib.sha256(self.content(position)).digest()


def real_data(
    name: str,
    class_names: tuple[str, ...],
    *,
    train: Split,
    test: Split,
    held_out: NDArray[np.bool_] | None = None,
) -> RealData:
    """Three parts of two splits.

    Args:
        held_out: Which images of ``train`` are for choices only. Left out: one in ten (at least one) of each class, the
            same on every machine.

    Raises:
        DataError: If a class has no image to test on, or not two to fit on and hold out.
    """
    held_out = held_out_of(train.labels) if held_out is None else held_out
    for what, labels in (("to fit on", train.labels[~held_out]), ("to test on", test.labels)):
        counts = np.bincount(labels, minlength=len(class_names))
        if (counts == 0).any():
            lonely = class_names[int(counts.argmin())]
            raise DataError(f"{name}: class {lonely!r} has no image {what} (one of each class is held out): add some")

    def part(source: Source, split: Split, positions: NDArray[np.int64]) -> Part:
        def read(rows: Rows) -> Images:
            return split.read(positions[np.asarray(rows)])

        return Part(source, positions, split.labels[positions], read)

    return RealData(
        name,
        class_names,
        SIDE,
        hashlib.sha256(train.hash() + test.hash()).hexdigest(),
        part("train", train, np.flatnonzero(~held_out)),
        part("train", train, np.flatnonzero(held_out)),
        part("test", test, np.arange(len(test.labels))),
    )


def held_out_of(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images of a training split are held out: in each class those with the smallest words."""
    keys = words("held-out", np.arange(len(labels)), count=1)[:, 0]
    mask = np.zeros(len(labels), bool)
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(labels == label)
        mask[rows[np.argsort(keys[rows], kind="stable")[: max(1, round(HELD_OUT * len(rows)))]]] = True
    return mask


def file_split(files: Sequence[Path], root: Path, labels: NDArray[np.int64] | None = None) -> Split:
    """Image files below ``root``; ``labels`` are left out where an image has several."""

    def content(position: int) -> bytes:
        return file_bytes(files[position])

    names = [file.relative_to(root).as_posix() for file in files]
    labels = np.zeros(len(files), np.int64) if labels is None else labels
    return Split(names, labels, content, lambda data, name: decoded(data, str(root / name)), files)


def file_bytes(file: Path) -> bytes:
    """Raises DataError if it cannot be read."""
    with _readable(file):
        return file.read_bytes()


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): mend or remove it") from error


def decoded(data: bytes, where: str) -> NDArray[np.uint8]:
    """An image file in RGB, uint8 (H, W, 3).

    Raises:
        DataError: If it is none.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return np.array(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "cannot identify image file" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DataError(f"{where} is not a readable image ({reason}): mend or remove it") from error
