"""Image folders: ``train/CLASS/*`` and ``test/CLASS/*``, or ``val/``; ImageNet is one."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from genrep.evaluate.data.part import SUFFIXES, RealData, Split, file_split, real_data
from genrep.shards.errors import DataError


def open_folder(
    name: str, root: Path, *, classes: Collection[str] | None = None, tests: tuple[str, ...] = ("test", "val")
) -> RealData:
    """Every class folder of ``root``, or these.

    Args:
        tests: Folders that the test part may lie in; the first that is there, else the last.

    Raises:
        DataError: If it is not there (the message says where to put it), or not of this layout.
    """
    test_root = root / next((test for test in tests if (root / test).is_dir()), tests[-1])
    train, test = (_labelled_files(folder, root, classes) for folder in (root / "train", test_root))
    if lonely := set(train) ^ set(test):
        raise DataError(
            f"{root}: train/ and {test_root.name}/ have different classes, such as {min(lonely)!r}: put images "
            "of every class into both"
        )
    names = tuple(sorted(train))
    return real_data(name, names, train=_split(train, names, root), test=_split(test, names, root))


def _labelled_files(folder: Path, root: Path, classes: Collection[str] | None) -> dict[str, list[Path]]:
    try:
        there = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
        if classes is not None and (missing := set(classes) - there):
            raise DataError(
                f"{folder} lacks {len(missing)} of {len(classes)} classes, such as {min(missing)}: add them"
            )
        found = {
            c: sorted(f for f in (folder / c).rglob("*") if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
            for c in sorted(there if classes is None else classes)
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


def _split(files: dict[str, list[Path]], classes: tuple[str, ...], root: Path) -> Split:
    labels = np.repeat(np.arange(len(classes)), [len(files[c]) for c in classes])
    return file_split([file for c in classes for file in files[c]], root, labels)
