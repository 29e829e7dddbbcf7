"""What an encoder is shown, as a picture a person can check: stored anchors beside the images made of them."""

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.shards.info import class_names
from genrep.shards.preview import Column, draw_sheet
from genrep.shards.reader import ShardDataset
from genrep.train.config import TrainConfig
from genrep.train.data import Batch


def batch_sheet(
    batch: Batch, shards: ShardDataset, config: TrainConfig, *, num_rows: int = 10, stored: bool = True
) -> bytes:
    """A PNG file: a row for each of the first samples of a batch, its anchor as it is stored, then its V images.

    Args:
        stored: Whether anchors are read for this; without them nothing is.

    Raises:
        DataError: If an anchor is damaged.
    """
    rows = [row for row, sample in enumerate(batch.samples.tolist()) if sample < len(shards)][:num_rows]
    samples, labels = batch.samples[rows].tolist(), batch.labels[rows].tolist()
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    images = batch.images.unflatten(0, (config.images_per_sample, -1))[:, rows].cpu()
    pixels = ((images * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    names = class_names(shards.recipe)
    columns = [Column("stored anchor", list(_anchors(shards, samples)))] if stored else []
    columns += [Column(f"image {number}", list(shown)) for number, shown in enumerate(pixels, start=1)]
    titles = [names[label] if 0 <= label < len(names) else "" for label in labels]
    return draw_sheet(columns, titles, [f"sample {sample}" for sample in samples])


def _anchors(shards: ShardDataset, samples: list[int]) -> NDArray[np.uint8]:
    """uint8 (B, H, W, 3)."""
    images = np.empty((1, len(samples), *shards.image_shape, 3), np.uint8)
    shards.images_into(samples, np.zeros((1, len(samples)), np.int64), images)
    return images[0]
