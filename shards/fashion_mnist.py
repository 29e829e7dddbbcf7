"""Fashion-MNIST from the IDX files people already have, in the project's one fixed split."""

import gzip
import math
import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from genrep.shards.errors import DataError

Part = Literal["learn", "held-out", "test"]

CLASS_NAMES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
NUM_LEARN = 54_000  # the first 54,000 training images; the last 6,000 are held out for every choice
FOLDERS = (
    Path("/usr/share/datasets/fashion-mnist"),  # Debian package dataset-fashion-mnist
    Path("~/.cache/genrep/FashionMNIST/raw").expanduser(),  # torchvision's download
)


class Labelled(NamedTuple):
    """Images uint8 (N, 28, 28) and labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


def load(part: Part, *, root: Path | None = None) -> Labelled:
    """Read one part of the split.

    Args:
        part: ``learn`` (54,000), ``held-out`` (6,000, the last of the training file) or
            ``test`` (10,000, for ``genrep-evaluate`` alone).
        root: Folder with the four ``*-ubyte`` or ``*-ubyte.gz`` files. Left out:
            ``GENREP_FASHION_MNIST``, Debian's package, then torchvision's download under
            ``~/.cache/genrep``.

    Raises:
        DataError: If the files are in none of these places, or are not IDX files.
    """
    folder = _folder(root)
    prefix = "t10k" if part == "test" else "train"
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", dims=3)
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", dims=1).astype(np.int64)
    if part == "learn":
        return Labelled(images[:NUM_LEARN], labels[:NUM_LEARN])
    if part == "held-out":
        return Labelled(images[NUM_LEARN:], labels[NUM_LEARN:])
    return Labelled(images, labels)


def _folder(root: Path | None) -> Path:
    named = os.environ.get("GENREP_FASHION_MNIST")
    places = [root] if root else [Path(named)] if named else list(FOLDERS)
    for place in places:
        if any((place / f"train-images-idx3-ubyte{suffix}").exists() for suffix in ("", ".gz")):
            return place
    raise DataError(
        f"Fashion-MNIST is not in {' or '.join(map(str, places))}: install the Debian package "
        'dataset-fashion-mnist, or run python -c "import torchvision; '
        "torchvision.datasets.FashionMNIST('~/.cache/genrep', download=True)\", or name its folder in "
        "GENREP_FASHION_MNIST"
    )


def _read_idx(folder: Path, name: str, *, dims: int) -> np.ndarray:
    packed = folder / f"{name}.gz"
    try:
        content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{folder / name} cannot be read ({error}): install Fashion-MNIST again") from error
    header = np.frombuffer(content[: 4 * (1 + dims)].ljust(4 * (1 + dims), b"\0"), ">i4")  # magic 0x0800 + d, d sides
    shape = tuple(int(side) for side in header[1:])
    if header[0] != 0x0800 + dims or len(content) != header.nbytes + math.prod(shape):
        raise DataError(f"{folder / name} is not an IDX file of {dims} dimensions: install Fashion-MNIST again")
    return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(shape)
