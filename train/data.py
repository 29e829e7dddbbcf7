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
from genrep.shards.npy import latents_of
from genrep.shards.reader import ShardDataset
from genrep.train.augment import centre_parameters, draw_parameters, transform_into
from genrep.train.choice import shown_images
from genrep.train.config import TrainConfig
from genrep.train.order import epoch_order, limited


@dataclass(frozen=True)
class Batch:
    """B samples, a rank's share of the global batch, in V images each.

    Attributes:
        samples: int64 (B,), their positions in the data set.
        global_samples: The same of the whole global batch; a rank's are ``global_samples[rank::world]``.
        images: float32 (V * B, 3, S, S) in channels_last layout, normalised; all first images, then all second ones.
        labels: int64 (B,).
        latents: float32 (V * B, D) of the images, where the config needs them.
    """

    samples: NDArray[np.int64]
    global_samples: NDArray[np.int64]
    images: torch.Tensor
    labels: torch.Tensor
    latents: torch.Tensor | None


class Loader:
    """The batches of a run. Each is a function of (data set, config, step): threads change nothing but the time.

    Rank r of W takes samples r, r + W, ... of every global batch.
    """

    def __init__(
        self, shards: ShardDataset, config: TrainConfig, *, threads: int, rank: int = 0, world: int = 1
    ) -> None:
        self.shards = shards
        self.config = config
        self.threads = threads
        self.rank, self.world = rank, world
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

    def _load(self, epoch: int, global_samples: NDArray[np.int64]) -> Batch:
        config, crop = self.config, self.config.crop
        samples = global_samples[self.rank :: self.world]
        shown = shown_images(config, samples, epoch=epoch, num_views=self.shards.num_views)
        rendered, latents = self._decode(samples, shown)
        views = np.empty((len(shown), len(samples), crop, crop, 3), np.float32)
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
        return Batch(
            samples,
            global_samples,
            torch.from_numpy(views).flatten(0, 1).permute(0, 3, 1, 2),
            torch.from_numpy(self.shards.labels[samples]),
            None if latents is None else torch.from_numpy(latents).flatten(0, 1),
        )

    def _decode(
        self, samples: NDArray[np.int64], shown: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Images uint8 (R, B, H, W, C), R = 1 where T_x makes all views of the anchor, and the latents (V, B, D)."""
        shards, config = self.shards, self.config
        wanted = shown[:1] if config.views == "pixel" else shown
        rendered = np.empty((*wanted.shape, *shards.image_shape, shards.channels), np.uint8)
        latents = np.empty((*shown.shape, config.latent_dim), np.float32) if config.needs_latents else None
        for b, sample in enumerate(samples.tolist()):
            names = [shards.member_names[image] for image in wanted[:, b]]
            members = shards.members(sample, names if latents is None else [*names, "latents.npy"])
            name = ""
            try:
                for images, name in zip(rendered, names, strict=True):
                    decode_into(members[name], images[b])
                if latents is not None:
                    name = "latents.npy"
                    latents[:, b] = latents_of(members[name], num_images=1 + shards.num_views)[shown[:, b]]
            except DataError as error:
                raise DataError(
                    f"{shards.folder}: member {key(sample)}.{name} {error}; "
                    f"genrep-shards verify {shards.folder} lists all damage"
                ) from error
        return rendered, latents
