"""Images to compare, of a shard set or of real data: some of them, drawn by a seed."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.evaluate.data import Images, Part, RealData, Rows
from genrep.evaluate.draws import words
from genrep.evaluate.features import Encoder, Progress, extract
from genrep.shards.reader import ShardDataset

PARTS = ("fit", "held-out", "test")


def drawn(num_images: int, count: int, *, seed: int, skip: int = 0) -> NDArray[np.int64]:
    """``count`` rows of ``num_images``, ascending, drawn without replacement; all that are left if there are fewer.

    Args:
        skip: So many rows are drawn before and left out: draws with skip 0 and skip n share no row.
    """
    order = np.argsort(words("subset", np.arange(num_images), seed=seed, count=1)[:, 0], kind="stable")
    return np.sort(order[skip : skip + count])


def rows_of(part: Part, rows: NDArray[np.int64]) -> Part:
    """These rows of a part, ascending."""

    def read(chosen: Rows) -> Images:
        return part.read(rows[np.asarray(chosen)])

    return replace(part, positions=part.positions[rows], labels=part.labels[rows], read=read)


def part_of(data: RealData, name: str) -> Part:
    """A part by its name in :data:`PARTS`."""
    parts: dict[str, Part] = {"fit": data.fit, "held-out": data.held_out, "test": data.test}
    return parts[name]


def set_part(dataset: ShardDataset, image: int, positions: NDArray[np.int64]) -> Part:
    """One image of each of these samples: 0 the anchor, k its view k."""

    def read(rows: Rows) -> Images:
        chosen = positions[np.asarray(rows)]
        out = np.empty((1, len(chosen), *dataset.image_shape, dataset.channels), np.uint8)
        dataset.images_into(chosen.tolist(), np.full((1, len(chosen)), image), out)
        return list(out[0])

    return Part("train", positions, dataset.labels[positions], read)


def channels_of(part: Part) -> int:
    """Of its first image."""
    return part.read(range(0, 1))[0].shape[2]


def features(encoder: Encoder, part: Part, *, channels: int, device: str, progress: Progress) -> torch.Tensor:
    """Features float32 (N, F) of a part, on the CPU; one channel is repeated where ``channels`` is 3.

    Raises:
        DataError: If an image is damaged or a feature is not finite.
    """

    def read(rows: Rows) -> Images:
        images = part.read(rows)
        return [np.repeat(image, channels, axis=2) if image.shape[2] < channels else image for image in images]

    return extract(encoder, replace(part, read=read), shift="none", device=device, progress=progress)
