"""Real images with labels, in three parts: one to fit on, one for every choice, one to test on, once."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.evaluate.draws import words
from genrep.shards import fashion_mnist
from genrep.shards.errors import DataError

Source = Literal["train", "test"]
Images = list[NDArray[np.uint8]]

HELD_OUT = 0.1  # of each class of an image folder
FASHION_SIDE, FOLDER_SIDE = 28, 32  # px: what the floors see
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Part:
    """Labelled images, read when they are asked for.

    Attributes:
        source: The split it was taken from.
        positions: int64 (N,), of each image in that split; with ``source`` they key its random shift.
        labels: int64 (N,), classes 0..C-1.
        read: Images uint8 (H, W, C) of a range of rows, C in {1, 3}.
    """

    source: Source
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    read: Callable[[range], Images]


@dataclass(frozen=True)
class RealData:
    """A data set to measure on.

    Attributes:
        name: As given to :func:`open_data`.
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


def open_data(name: str) -> RealData:
    """Open ``fashion-mnist`` or ``imagefolder:PATH``.

    An image folder holds ``train/CLASS/*`` and ``test/CLASS/*``, or ``val/`` where there is no ``test/``. Its
    held-out part is one image in ten (at least one) of each class of ``train/``, the same on every machine.

    Raises:
        DataError: If it is not there (the message says where to put it), or not of this layout.
    """
    kind, _, place = name.partition(":")
    if name == "fashion-mnist":
        return _open_fashion_mnist()
    if kind == "imagefolder" and place:
        return _open_folder(name, Path(place).expanduser())
    raise DataError(f"unknown data {name!r}: use fashion-mnist or imagefolder:PATH")


def _open_fashion_mnist() -> RealData:
    digest = hashlib.sha256()

    def part(which: fashion_mnist.Part, source: Source, first: int = 0) -> Part:
        images, labels = fashion_mnist.load(which)
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
        positions = np.arange(first, first + len(labels))
        return Part(source, positions, labels, lambda rows: list(images[rows.start : rows.stop, ..., None]))

    fit = part("learn", "train")
    held_out = part("held-out", "train", first=len(fit.labels))
    test = part("test", "test")
    return RealData("fashion-mnist", fashion_mnist.CLASS_NAMES, FASHION_SIDE, digest.hexdigest(), fit, held_out, test)


def _open_folder(name: str, root: Path) -> RealData:
    test_root = root / ("test" if (root / "test").is_dir() else "val")
    train, test = _labelled_files(root / "train", root), _labelled_files(test_root, root)
    if lonely := set(train) ^ set(test):
        raise DataError(
            f"{root}: train/ and {test_root.name}/ have different classes, such as {min(lonely)!r}: put images "
            "of every class into both"
        )
    classes = tuple(sorted(train))
    if few := [c for c in classes if len(train[c]) < 2]:
        raise DataError(f"{root / 'train' / few[0]} needs two images or more: one to fit on, one to hold out")
    train_files, train_labels = _flat(train, classes)
    test_files, test_labels = _flat(test, classes)
    held_out = _held_out(train_labels)

    def part(source: Source, files: list[Path], labels: NDArray[np.int64], positions: NDArray[np.int64]) -> Part:
        return Part(
            source,
            positions,
            labels[positions],
            lambda rows: decode_files([files[p] for p in positions[rows.start : rows.stop]]),
        )

    return RealData(
        name,
        classes,
        FOLDER_SIDE,
        hash_files(root, train_files + test_files),
        part("train", train_files, train_labels, np.flatnonzero(~held_out)),
        part("train", train_files, train_labels, np.flatnonzero(held_out)),
        part("test", test_files, test_labels, np.arange(len(test_labels))),
    )


def _labelled_files(folder: Path, root: Path) -> dict[str, list[Path]]:
    try:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        found = {
            c.name: sorted(f for f in c.rglob("*") if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
            for c in classes
        }
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}): put the images into {root / 'train'}/CLASS/ and "
            f"{root / 'test'}/CLASS/ (or val/)"
        ) from error
    if not found:
        raise DataError(f"{folder} has no class folders: put the images into {folder}/CLASS/")
    if empty := [c for c in found if not found[c]]:
        raise DataError(f"{folder / empty[0]} has no images ({' '.join(sorted(SUFFIXES))}): add some or remove it")
    return found


def _flat(files: dict[str, list[Path]], classes: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64]]:
    return [f for c in classes for f in files[c]], np.repeat(np.arange(len(classes)), [len(files[c]) for c in classes])


def _held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images of ``train/`` are held out: in each class those with the smallest words."""
    keys = words("held-out", np.arange(len(labels)), count=1)[:, 0]
    mask = np.zeros(len(labels), bool)
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(labels == label)
        mask[rows[np.argsort(keys[rows], kind="stable")[: max(1, round(HELD_OUT * len(rows)))]]] = True
    return mask


def hash_files(root: Path, files: list[Path]) -> str:
    """sha256 of these files below ``root``: of their names and bytes."""

    def of(file: Path) -> bytes:
        try:
            return hashlib.sha256(file.read_bytes()).digest()
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error.strerror}): mend or remove it") from error

    digest = hashlib.sha256()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing releases the GIL
        for file, content in zip(files, pool.map(of, files), strict=True):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def decode_files(files: list[Path]) -> Images:
    """Images uint8 (H, W, 3).

    Raises:
        DataError: Naming the first that cannot be read.
    """
    from PIL import Image

    def image(file: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(file) as opened:
                return np.array(opened.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} is not a readable image ({error}): mend or remove it") from error

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # decoders release the GIL
        return list(pool.map(image, files))
