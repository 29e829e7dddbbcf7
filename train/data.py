"""Shards to batches: which image of a sample, decoding and T_x, in threads, in one exact order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.shards.ahead import ahead
from genrep.shards.errors import DataError
from genrep.shards.reader import ShardDataset
from genrep.train.augment import Parameters, centre_parameters, draw_parameters, joined, transform_into
from genrep.train.batched import transformed
from genrep.train.choice import shown_images
from genrep.train.config import TrainConfig
from genrep.train.order import MIXED_STREAMS, OWN_STREAMS, epoch_order, limited

PREFETCHED = 32  # batches ahead, whose tars are fetched if they lie in a store


@dataclass(frozen=True)
class Batch:
    """B samples, a rank's share of the global batch, in V images each.

    Attributes:
        samples: int64 (B,), their positions in the data set; those of a mixed-in set go on after its last.
        global_samples: The same of the whole global batch as it was planned; a rank's are
            ``global_samples[rank::world]``.
        images: float32 (V * B, 3, S, S) in channels_last layout, normalised; all first images, then all second ones.
        labels: int64 (B,).
        latents: float32 (V * B, D) of the images, where the config needs them.
        passed_over: What was wrong with the damaged samples in whose place others stand.
    """

    samples: NDArray[np.int64]
    global_samples: NDArray[np.int64]
    images: torch.Tensor
    labels: torch.Tensor
    latents: torch.Tensor | None
    passed_over: Sequence[str]


class ImageReader(Protocol):
    """Where the images of a set are read: its tars (:class:`ShardDataset`) or its FFCV file."""

    def images_into(self, positions: Sequence[int], numbers: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Decode the images ``numbers`` (R, B) (0 the anchor, k view k) of B samples into uint8 (R, B, H, W, C)."""

    def latents(self, position: int) -> NDArray[np.float32]:
        """float32 (1+K, D)."""


class Loader:
    """The batches of a run. Each is a function of (data set, config, step): workers change nothing but the time.

    Rank r of W takes samples r, r + W, ... of every global batch. T_x is applied where the networks run: by the
    compiled pass on a CPU, by torch on a GPU.

    Args:
        shards: The data set.
        images: Reads its images; its tars by default.
        mixed: The set of which ``config.num_mixed`` samples are in every batch.
        workers: Threads that prepare batches ahead; 0: they are prepared when asked for.
        skip_bad: Take the sample at the same place of the next batch where one is damaged.
    """

    def __init__(
        self,
        shards: ShardDataset,
        config: TrainConfig,
        *,
        images: ImageReader | None = None,
        mixed: ShardDataset | None = None,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        skip_bad: bool = False,
    ) -> None:
        self.config = config
        self.workers = workers
        self.rank, self.world = rank, world
        self.device = torch.device(device)
        self.skip_bad = skip_bad
        own = limited(shards.shard_counts, config.num_samples)
        self.streams = [_Stream(shards, images or shards, config, counts=own, size=config.num_own)]
        if mixed is not None:
            counts = mixed.shard_counts
            self.streams.append(
                _Stream(mixed, mixed, config, counts=counts, size=config.num_mixed, after=len(shards), in_mix=True)
            )

    def batches(self, first_step: int) -> Iterator[Batch]:
        """The batches of updates ``first_step``, ... to the last.

        Raises:
            DataError: If a sample cannot be read.
        """
        plan = ([stream.at(step) for stream in self.streams] for step in range(first_step, self.config.steps))
        if self.device.type == "cpu":
            yield from ahead(lambda shares: self._transformed(self._read_batch(shares)), plan, self.workers)
        else:
            yield from map(self._transformed, ahead(self._read_batch, plan, self.workers))

    def _read_batch(self, shares: list["_Share"]) -> "_Read":
        config, shards = self.config, self.streams[0].shards
        firsts = np.cumsum([0, *(len(share.planned) for share in shares)]).tolist()
        # of each share the slots that this rank takes: those whose place in the global batch is rank, rank + world, ...
        slots = [
            np.arange((self.rank - first) % self.world, len(share.planned), self.world)
            for first, share in zip(firsts, shares, strict=False)
        ]
        rows = np.cumsum([0, *map(len, slots)]).tolist()
        num_rendered = 1 if config.views == "pixel" else config.images_per_sample  # T_x makes all views of the anchor
        rendered = np.empty((num_rendered, rows[-1], *shards.image_shape, shards.channels), np.uint8)
        latents = np.empty((config.images_per_sample, rows[-1], config.latent_dim), np.float32)
        samples: list[NDArray[np.int64]] = []
        passed_over: list[str] = []
        for share, own, first, last in zip(shares, slots, rows, rows[1:], strict=False):
            here = slice(first, last)
            samples.append(self._read(share, own, rendered[:, here], latents[:, here], passed_over))
        keys = [taken + share.stream.after for share, taken in zip(shares, samples, strict=True)]
        parameters = [self._parameters(view, shares, keys) for view in range(config.images_per_sample)]
        return _Read(
            samples=np.concatenate(keys),
            global_samples=np.concatenate([share.planned + share.stream.after for share in shares]),
            rendered=rendered,
            parameters=parameters,
            labels=np.concatenate(
                [share.stream.shards.labels[taken] for share, taken in zip(shares, samples, strict=True)]
            ),
            latents=latents if config.needs_latents else None,
            passed_over=passed_over,
        )

    def _transformed(self, read: "_Read") -> Batch:
        """T_x, on the device."""
        images = self._by_kernel(read) if self.device.type == "cpu" else self._by_torch(read)
        return Batch(
            samples=read.samples,
            global_samples=read.global_samples,
            images=images,
            labels=torch.from_numpy(read.labels),
            latents=None if read.latents is None else torch.from_numpy(read.latents).flatten(0, 1),
            passed_over=read.passed_over,
        )

    def _by_kernel(self, read: "_Read") -> torch.Tensor:
        config = self.config
        views = np.empty((len(read.parameters), len(read.samples), config.crop, config.crop, 3), np.float32)
        for view, (out, parameters) in enumerate(zip(views, read.parameters, strict=True)):
            rendered = read.rendered[view % len(read.rendered)]
            transform_into(out, rendered, parameters, mean=config.mean, std=config.std)
        return torch.from_numpy(views).flatten(0, 1).permute(0, 3, 1, 2)

    def _by_torch(self, read: "_Read") -> torch.Tensor:
        config = self.config
        pixels = torch.from_numpy(read.rendered)
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        views = [
            transformed(pixels[view % len(pixels)], parameters, crop=config.crop, mean=config.mean, std=config.std)
            for view, parameters in enumerate(read.parameters)
        ]
        return torch.cat(views).contiguous(memory_format=torch.channels_last)

    def _read(
        self,
        share: "_Share",
        slots: NDArray[np.int64],
        rendered: NDArray[np.uint8],
        latents: NDArray[np.float32],
        passed_over: list[str],
    ) -> NDArray[np.int64]:
        """Decode a rank's samples of a share; returns their positions in its set."""
        samples = share.planned[slots]
        try:
            share.stream.read(samples, share.epoch, rendered, latents)
            return samples
        except DataError:
            if not self.skip_bad:
                raise
        for b, slot in enumerate(slots.tolist()):
            here = slice(b, b + 1)
            for samples[b] in share.candidates(slot):
                try:
                    share.stream.read(samples[here], share.epoch, rendered[:, here], latents[:, here])
                    break
                except DataError as error:
                    passed_over.append(str(error))
            else:
                raise DataError(f"no sample that could take the place of a damaged one can be read: {passed_over[-1]}")
        return samples

    def _parameters(self, view: int, shares: list["_Share"], keys: list[NDArray[np.int64]]) -> Parameters:
        config, source = self.config, self.streams[0].shards.image_shape
        if config.views == "latent":
            num_images = sum(map(len, keys))
            return centre_parameters(num_images, source=source, resize=config.resize, crop=config.crop)
        return joined(
            [
                draw_parameters(
                    config.pixels, key, seed=config.seed, epoch=share.epoch, view=view, source=source, crop=config.crop
                )
                for share, key in zip(shares, keys, strict=True)
            ]
        )


class _Stream:
    """The samples of one set, in the order in which batches take ``size`` of them at a time.

    What an epoch leaves over is dropped. The words of a sample are keyed by its position plus ``after``.
    """

    def __init__(
        self,
        shards: ShardDataset,
        images: ImageReader,
        config: TrainConfig,
        *,
        counts: Sequence[int],
        size: int,
        after: int = 0,
        in_mix: bool = False,
    ) -> None:
        self.shards = shards
        self.images = images
        self.config = config
        self.size = size
        self.after = after
        self._counts = counts
        self._streams = MIXED_STREAMS if in_mix else OWN_STREAMS
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, step: int) -> "_Share":
        """What this set gives to the global batch of an update."""
        epoch, batch = divmod(step, sum(self._counts) // self.size)
        if epoch != self._epoch:
            config = self.config
            self._epoch, self._order = (
                epoch,
                epoch_order(
                    config.seed,
                    epoch,
                    self._counts,
                    lanes=config.lanes,
                    shuffle_buffer=config.shuffle_buffer,
                    streams=self._streams,
                ),
            )
            self._prefetch(batch, PREFETCHED)
        self._prefetch(batch + PREFETCHED, 1)
        return _Share(self, epoch, self._order, batch * self.size)

    def _prefetch(self, batch: int, count: int) -> None:
        """Have the tars fetched that ``count`` batches of this epoch from ``batch`` on read, if they lie in a store."""
        if self.images is self.shards:
            self.shards.prefetch(self._order[batch * self.size : (batch + count) * self.size].tolist())

    def read(
        self, samples: NDArray[np.int64], epoch: int, rendered: NDArray[np.uint8], latents: NDArray[np.float32]
    ) -> None:
        """Decode what a batch shows of samples into ``rendered`` (R, B, H, W, C), its latents into (V, B, D).

        Of a set without latent views all images show the anchor.
        """
        positions = samples.tolist()
        if self.shards.num_views:
            shown = shown_images(self.config, samples + self.after, epoch=epoch, num_views=self.shards.num_views)
            self.images.images_into(positions, shown[: len(rendered)], rendered)
        else:
            shown = np.zeros((self.config.images_per_sample, len(samples)), np.int64)
            self.images.images_into(positions, shown[:1], rendered[:1])
            rendered[1:] = rendered[0]
        if self.config.needs_latents:
            for b, position in enumerate(positions):
                latents[:, b] = self.images.latents(position)[shown[:, b]]


@dataclass(frozen=True)
class _Share:
    """What one set gives to a global batch: ``size`` samples of its epoch's order from ``first`` on."""

    stream: _Stream
    epoch: int
    order: NDArray[np.int64]
    first: int

    @property
    def planned(self) -> NDArray[np.int64]:
        return self.order[self.first : self.first + self.stream.size]

    def candidates(self, slot: int) -> Iterator[int]:
        """The sample in a slot, then those in the same slot of the batches that follow in the epoch, around its end."""
        for batch in range(len(self.order) // self.stream.size):
            yield int(self.order[(self.first + slot + batch * self.stream.size) % len(self.order)])


@dataclass(frozen=True)
class _Read:
    """A batch before its pixels, uint8 (R, B, H, W, C), go through T_x with the parameters of each of V views."""

    samples: NDArray[np.int64]
    global_samples: NDArray[np.int64]
    rendered: NDArray[np.uint8]
    parameters: Sequence[Parameters]
    labels: NDArray[np.int64]
    latents: NDArray[np.float32] | None
    passed_over: Sequence[str]
