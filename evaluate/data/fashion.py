"""Fashion-MNIST, with the one split of the whole project."""

import hashlib

import numpy as np

from genrep.evaluate.data.part import Part, RealData, Source
from genrep.shards import fashion_mnist

SIDE = 28  # px


def open_fashion_mnist() -> RealData:
    """54,000 training images to fit on, 6,000 held out, the 10,000 test images.

    Raises:
        DataError: If the files are missing or damaged.
    """
    digest = hashlib.sha256()

    def part(which: fashion_mnist.Part, source: Source, first: int = 0) -> Part:
        images, labels = fashion_mnist.load(which)
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
        positions = np.arange(first, first + len(labels))
        return Part(source, positions, labels, lambda rows: list(images[np.asarray(rows), ..., None]))

    fit = part("learn", "train")
    held_out = part("held-out", "train", first=len(fit.labels))
    test = part("test", "test")
    return RealData("fashion-mnist", fashion_mnist.CLASS_NAMES, SIDE, digest.hexdigest(), fit, held_out, test)
