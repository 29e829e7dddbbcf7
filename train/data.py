"""Shards to batches: which image of a sample, decoding and T_x, in threads, in one exact order."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.shards.codec import decode_into
from genrep.shards.errors import DataError
from genrep.shards.layout import key
from genrep.shards.reader import ShardDataset
from genrep.train.augment import centre_parameters, draw_parameters, transform_into
from genrep.train.config import TrainConfig
from genrep.train.order import epoch_order, limited
from genrep.train.philox import words

NUM_VIEWS = 2


@dataclass(frozen=True)
class Batch:
    """B samples in V views each.

    Attributes:
        samples: int64 (B,), their positions in the data set.
        images: float32 (V * B, 3, S, S) in channels_last layout, normalised; all first views, then all second ones.
        labels: int64 (B,).
    """

    samples: NDArray[np.int64]
    images: torch.Tensor
    labels: torch.Tensor


class Loader:
    """The batches of a run. Each is a function of (data set, config, step): threads change nothing but the time."""

    def __init__(self, shards: ShardDataset, config: TrainConfig, *, threads: int) -> None:
        self.shards = shards
        self.config = config
        self.threads = threads
        self.shard_counts = limited(shards.shard_counts, config.num_samples)
        self.steps_per_epoch = config.num_samples // config.batch_size

    def batches(self, first_step: int) -> Iterator[Batch]:
        """The batches of updates ``first_step``, ... to the last, prepared ahead by ``threads`` threads.

        Raises:
            DataError: If a sample cannot be read.
        """
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="genrep-load") as pool:
            try:
                for epoch, samples in self._plan(first_step):
                    ahead.append(pool.submit(self._load, epoch, samples))
                    if len(ahead) > self.threads + 1:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _plan(self, first_step: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Epoch and samples of each batch; what an epoch leaves over is dropped."""
        config, order_of = self.config, -1
        for step in range(first_step, config.steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != order_of:
                order = epoch_order(
                    config.seed, epoch, self.shard_counts, lanes=config.lanes, shuffle_buffer=config.shuffle_buffer
                )
                order_of = epoch
            yield epoch, order[batch * config.batch_size : (batch + 1) * config.batch_size]

    def _load(self, epoch: int, samples: NDArray[np.int64]) -> Batch:
        config, crop = self.config, self.config.crop
        rendered = self._decode(epoch, samples)
        views = np.empty((NUM_VIEWS, len(samples), crop, crop, 3), np.float32)
        for view, out in enumerate(views):
            if config.views == "latent":
                parameters = centre_parameters(
                    len(samples), source=self.shards.image_shape, resize=config.resize, crop=crop
                )
            else:
                parameters = draw_parameters(
                    config.pixels,
                    samples,
                    seed=config.seed,
                    epoch=epoch,
                    view=view,
                    source=self.shards.image_shape,
                    crop=crop,
                )
            transform_into(out, rendered[view % len(rendered)], parameters, mean=config.mean, std=config.std)
        images = torch.from_numpy(views).flatten(0, 1).permute(0, 3, 1, 2)
        return Batch(samples, images, torch.from_numpy(self.shards.labels[samples]))

    def _decode(self, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images that become views, uint8 (R, B, H, W, C): the anchors, and unless T_x is all, a view of each."""
        wanted = [np.zeros(len(samples), np.int64)]
        if self.config.views != "pixel":
            random_words = words(self.config.seed, "view", samples, epoch=epoch, count=1)[:, 0]
            wanted.append(1 + (random_words * np.uint64(self.shards.num_views) >> np.uint64(32)).astype(np.int64))
        shards = self.shards
        rendered = np.empty((len(wanted), len(samples), *shards.image_shape, shards.channels), np.uint8)
        for b, sample in enumerate(samples.tolist()):
            names = [shards.member_names[choice[b]] for choice in wanted]  # the anchor's, then those of the views
            members = shards.members(sample, names)
            for images, name in zip(rendered, names, strict=True):
                try:
                    decode_into(members[name], images[b])
                except DataError as error:
                    raise DataError(
                        f"{shards.folder}: member {key(sample)}.{name} {error}; "
                        f"genrep-shards verify {shards.folder} lists all damage"
                    ) from error
        return rendered
