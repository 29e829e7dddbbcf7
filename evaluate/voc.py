"""Images in PASCAL VOC's layout: which classes each holds, and where."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.data.part import Split, file_split
from genrep.shards.errors import DataError

YEAR = "VOC2007"  # what a split without a year belongs to
LARGEST_LIST, LARGEST_ANNOTATION = 2**24, 2**20  # bytes; the real ones are far below


@dataclass(frozen=True)
class Box:
    """An object.

    Attributes:
        label: Its class, a column of the labels.
        corners: Left, top, right, bottom, px from the image's corner.
        difficult: Whether VOC calls it so.
    """

    label: int
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocSplit:
    """Images of one split, or of several joined by ``+``.

    Attributes:
        name: As it was asked for.
        files: N images.
        labels: int64 (N, C): 1 where a class is in the image, 0 where all its objects are difficult, -1 elsewhere.
    """

    name: str
    files: list[Path]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    @cached_property
    def images(self) -> Split:
        """Their contents, named from the folder of the year on."""
        return file_split(self.files, self.files[0].parents[2])

    @property
    def annotations(self) -> list[Path]:
        """The XML file of each image."""
        return [file.parent.parent / "Annotations" / f"{file.stem}.xml" for file in self.files]

    def boxes(self, row: int) -> list[Box]:
        """The objects of an image, from its XML file.

        Raises:
            DataError: If the file cannot be read, or has a class or a box that cannot be.
        """
        return _read_boxes(self.annotations[row], self.class_names)


def open_voc(root: Path, splits: str) -> tuple[VocSplit, VocSplit]:
    """The split to fit on and the split to report on.

    Args:
        root: Holds ``VOC2007/`` or ``VOCdevkit/VOC2007/``, or is such a folder itself: one with ``JPEGImages/``,
            ``Annotations/`` and ``ImageSets/Main/CLASS_SPLIT.txt``.
        splits: Two, such as ``trainval,test``. Each may join several by ``+`` and name another year, as
            ``2007/trainval+2012/trainval``.

    Raises:
        DataError: If they are not there, or not of this layout.
    """
    names = splits.split(",")
    if len(names) != 2 or names[0] == names[1]:
        raise DataError(f"--splits {splits!r} does not name two splits: write one to fit on and one to report on, A,B")
    fit, test = (_open_split(root, name) for name in names)
    if fit.class_names != test.class_names:
        odd = min(set(fit.class_names) ^ set(test.class_names))
        raise DataError(
            f"{root}: {fit.name} and {test.name} have different classes, such as {odd!r}: use splits of one set"
        )
    if both := set(fit.files) & set(test.files):
        raise DataError(
            f"{root}: {fit.name} and {test.name} share {len(both)} images, such as {min(both).name}: use others"
        )
    return fit, test


def _open_split(root: Path, name: str) -> VocSplit:
    files: list[Path] = []
    labels: list[NDArray[np.int64]] = []
    classes: tuple[str, ...] | None = None
    for part in name.split("+"):
        year, _, split = part.rpartition("/")
        if not re.fullmatch(r"\w+", split) or not re.fullmatch(r"\w*", year):
            raise DataError(f"--splits: {part!r} is no split: write one as trainval or 2012/trainval")
        folder = _folder(root, year)
        lists = {file.name.removesuffix(f"_{split}.txt"): file for file in _lists(folder, split)}
        classes = classes or tuple(sorted(lists))
        if classes != tuple(sorted(lists)):
            odd = min(set(classes) ^ set(lists))
            raise DataError(f"{folder}: the parts of {name} have different classes, such as {odd!r}: leave one out")
        images, columns = _read_lists([lists[c] for c in classes])
        files += [folder / "JPEGImages" / f"{image}.jpg" for image in images]
        labels.append(columns)
    assert classes
    return VocSplit(name, files, np.concatenate(labels), classes)


def _folder(root: Path, year: str) -> Path:
    year = f"VOC{year}" if year else YEAR
    places = [root / year, root / "VOCdevkit" / year, *([root] if year in (YEAR, root.name) else [])]
    for place in places:
        if (place / "JPEGImages").is_dir() and (place / "ImageSets" / "Main").is_dir():
            return place
    raise DataError(
        f"{root} holds no {year}: unpack the VOC archives (trainval and test) there, so that "
        f"{root / year}/JPEGImages and {root / year}/ImageSets/Main exist"
    )


def _lists(folder: Path, split: str) -> list[Path]:
    found = list((folder / "ImageSets" / "Main").glob(f"*_{split}.txt"))
    if not found:
        raise DataError(
            f"{folder}/ImageSets/Main has no CLASS_{split}.txt: unpack the archive with that split there, or name "
            "others with --splits"
        )
    return found


def _read_lists(lists: list[Path]) -> tuple[list[str], NDArray[np.int64]]:
    """Names of N images and their labels (N, C), from one file a class."""
    names: list[str] = []
    columns = []
    for number, file in enumerate(lists):
        rows = [line.split() for line in _content(file, LARGEST_LIST).decode("utf-8", "replace").splitlines()]
        rows = [row for row in rows if row]
        for line, row in enumerate(rows, 1):
            if len(row) != 2 or row[1] not in ("1", "0", "-1") or not re.fullmatch(r"[\w-]+", row[0]):
                raise DataError(
                    f"{file}: entry {line} is {' '.join(row)[:60]!r}, not NAME 1|0|-1: unpack the file again"
                )
        own = [name for name, _ in rows]
        if number == 0:
            names = own
        if own != names or len(set(own)) < len(own):
            raise DataError(f"{file} does not list the images of {lists[0].name}, each once: unpack the files again")
        columns.append([int(label) for _, label in rows])
    if not names:
        raise DataError(f"{lists[0]} lists no image: unpack the file again")
    return names, np.array(columns, dtype=np.int64).T


def _read_boxes(file: Path, class_names: tuple[str, ...]) -> list[Box]:
    content = _content(file, LARGEST_ANNOTATION)
    if b"<!DOCTYPE" in content:  # what could define entities that grow
        raise DataError(f"{file} has a document type, which VOC's files have not: unpack it again")
    try:
        tree = ElementTree.fromstring(content)
        return [_box(found, class_names) for found in tree.iter("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file} is no annotation of VOC ({error}): unpack it again") from error


def _box(found: ElementTree.Element, class_names: tuple[str, ...]) -> Box:
    """VOC counts pixels from 1, and the last one is inside: a box of (1, 1, 1, 1) is one pixel wide."""
    name = found.findtext("name", "").strip()
    if name not in class_names:
        raise ValueError(f"an object of class {name[:60]!r}, which ImageSets/Main does not name")
    left, top, right, bottom = (
        float(found.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    if not (1 <= left <= right < np.inf and 1 <= top <= bottom < np.inf):
        raise ValueError(f"a box of {name} from ({left:g}, {top:g}) to ({right:g}, {bottom:g})")
    difficult = found.findtext("difficult", "0").strip() == "1"
    return Box(class_names.index(name), (left - 1, top - 1, right, bottom), difficult)


def _content(file: Path, largest: int) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(largest + 1)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): unpack it again") from error
    if len(content) > largest:
        raise DataError(f"{file} is larger than {largest:,} bytes: it is no file of VOC")
    return content
