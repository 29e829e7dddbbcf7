"""Data sets of torchvision, read from where torchvision would have put them; nothing is downloaded."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.data.folder import open_folder
from genrep.evaluate.data.part import RealData, Split, file_split, real_data
from genrep.evaluate.draws import words
from genrep.shards.errors import DataError
from genrep.shards.imagenet import IMAGENET_100

Labelled = list[tuple[Path, int]]


@dataclass(frozen=True)
class Layout:
    """How a data set of torchvision gives its parts.

    Attributes:
        folder: Below ROOT, where it lies.
        parts: Arguments for training, held-out (None: some training images) and test part; where the data set is one
            part, how many of each class are for training (the others test).
        labelled: Its image files with their classes.
    """

    folder: str
    parts: tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]] | int
    labelled: Callable[[Any], Iterable[tuple[Any, int]]] = lambda dataset: zip(
        dataset._image_files, dataset._labels, strict=True
    )


TRAIN_VAL_TEST = ({"split": "train"}, {"split": "val"}, {"split": "test"})
TRAIN_TEST = ({"split": "train"}, None, {"split": "test"})

LAYOUTS = {
    "Caltech101": Layout(
        "caltech101/101_ObjectCategories",
        30,
        lambda dataset: (
            (Path(dataset.root, "101_ObjectCategories", dataset.categories[label], f"image_{number:04d}.jpg"), label)
            for number, label in zip(dataset.index, dataset.y, strict=True)
        ),
    ),
    "DTD": Layout("dtd/dtd", TRAIN_VAL_TEST),
    "FGVCAircraft": Layout("fgvc-aircraft-2013b", TRAIN_VAL_TEST),
    "Flowers102": Layout("flowers-102", TRAIN_VAL_TEST),
    "Food101": Layout("food-101", TRAIN_TEST),
    "OxfordIIITPet": Layout(
        "oxford-iiit-pet",
        ({"split": "trainval"}, None, {"split": "test"}),
        lambda dataset: zip(dataset._images, dataset._labels, strict=True),
    ),
    "Places365": Layout(
        "", ({"split": "train-standard"}, None, {"split": "val"}), lambda dataset: dataset.imgs
    ),
    "StanfordCars": Layout("stanford_cars", TRAIN_TEST, lambda dataset: dataset._samples),
    "SUN397": Layout("SUN397", 50),
}  # fmt: skip
ARRAYS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
FOLDERS = {"ImageNet": None, "ImageNet-100": IMAGENET_100}
NAMES = sorted([*LAYOUTS, *ARRAYS, *FOLDERS])


def open_vision(name: str) -> RealData:
    """``torchvision:NAME:ROOT``; ROOT is the ``root`` of torchvision's classes.

    ImageNet and ImageNet-100 are read as ``ROOT/train/WNID/*`` and ``ROOT/val/WNID/*``. Caltech101 and SUN397 have no
    parts: of each class 30 (50) images, the same on every machine, are for training.

    Raises:
        DataError: If it is not there or not whole, or no such data set is known.
    """
    _, kind, *rest = name.split(":", 2)
    if kind not in NAMES or not rest or not rest[0]:
        raise DataError(f"unknown data {name!r}: use torchvision:NAME:ROOT with NAME one of {', '.join(NAMES)}")
    root = Path(rest[0]).expanduser()
    if kind in FOLDERS:
        return open_folder(name, root, classes=FOLDERS[kind], tests=("val",))  # test/ has no labels
    if kind in ARRAYS:
        return _arrays(name, kind, root)
    layout = LAYOUTS[kind]
    if isinstance(layout.parts, int):
        whole = _opened(kind, root, layout.folder)
        files = sorted((Path(file), label) for file, label in layout.labelled(whole))
        labels = np.array([label for _, label in files])
        is_train = _firsts(labels, layout.parts)
        train, test = (_files([files[i] for i in np.flatnonzero(mask)], root) for mask in (is_train, ~is_train))
        return real_data(name, _class_names(whole), train=train, test=test)
    train_part, held_out_part, test_part = (
        None if arguments is None else _opened(kind, root, layout.folder, **arguments) for arguments in layout.parts
    )
    files = [(Path(file), label) for file, label in layout.labelled(train_part)]
    mask = None
    if held_out_part is not None:
        num_fit = len(files)
        files += [(Path(file), label) for file, label in layout.labelled(held_out_part)]
        mask = np.arange(len(files)) >= num_fit
    test = _files([(Path(file), label) for file, label in layout.labelled(test_part)], root)
    return real_data(name, _class_names(train_part), train=_files(files, root), test=test, held_out=mask)


def _opened(kind: str, root: Path, folder: str, **arguments: Any) -> Any:
    """torchvision's data set, if it is there and as torchvision knows it."""
    from torchvision import datasets

    place = root / folder
    advice = f"put what torchvision.datasets.{kind} downloads into {place}"
    if not place.is_dir():
        raise DataError(f"{place} is not there: {advice}")
    if kind == "Places365":
        arguments["small"] = (root / "data_256_standard").is_dir()
    try:
        return getattr(datasets, kind)(root, **arguments)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split(" You can ")[0].split())
        raise DataError(f"{place} is not {kind} as torchvision knows it ({reason}): {advice}") from error


def _class_names(dataset: Any) -> tuple[str, ...]:
    if hasattr(dataset, "classes"):
        return tuple(dataset.classes)
    if hasattr(dataset, "categories"):
        return tuple(dataset.categories)
    return tuple(map(str, range(max(dataset._labels) + 1)))  # Flowers102 of older versions


def _files(files: Labelled, root: Path) -> Split:
    return file_split([file for file, _ in files], root, np.array([label for _, label in files]))


def _firsts(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """So many images of each class, those with the smallest words."""
    keys = words("split", np.arange(len(labels)), count=1)[:, 0]
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        mask[rows[np.argsort(keys[rows], kind="stable")[:count]]] = True
    return mask


def _arrays(name: str, kind: str, root: Path) -> RealData:
    """CIFAR: torchvision compares its pickles with the hashes it knows before it loads them."""
    train, test = (_opened(kind, root, ARRAYS[kind], train=is_train) for is_train in (True, False))
    return real_data(name, tuple(train.classes), train=_array_split(train), test=_array_split(test))


def _array_split(dataset: Any) -> Split:
    pixels = dataset.data  # uint8 (N, 32, 32, 3)
    return Split(
        [f"image {i}" for i in range(len(pixels))],
        np.array(dataset.targets),
        lambda position: pixels[position].tobytes(),
        lambda data, name: np.frombuffer(data, np.uint8).reshape(pixels.shape[1:]),
    )
