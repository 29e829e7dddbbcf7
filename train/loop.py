"""Training: batch, loss, step, and now and then a checkpoint, until all updates are done."""

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

from genrep.shards.errors import DataError
from genrep.shards.reader import ShardDataset
from genrep.train.checkpoint import KEPT, checkpoints, save_checkpoint
from genrep.train.config import TrainConfig
from genrep.train.data import ImageReader, Loader
from genrep.train.learner import Learner
from genrep.train.ranks import Ranks
from genrep.train.run import check_run, open_run
from genrep.train.watch import TENSORBOARD, Watch, summary_writer


@dataclass(frozen=True)
class Metrics:
    """A line of ``metrics.jsonl``.

    Attributes:
        step: Updates done, from 1.
        loss: Of this update's batch, ``loss_scale`` included.
        images_per_s: Images through the network, of all ranks, over the update's whole time.
        data_wait: Share of that time spent waiting for the batch, in [0, 1].
        lr: Learning rate of this update.
        batch_crc32: Of the global batch's sample positions (int64, little-endian): equal where two runs saw the same.
        passed_over: Damaged samples in whose place others stood, over all ranks.
    """

    step: int
    loss: float
    images_per_s: float
    data_wait: float
    lr: float
    batch_crc32: int
    passed_over: int


def train(
    shards: ShardDataset,
    config: TrainConfig,
    run: Path,
    *,
    device: str = "cpu",
    ranks: Ranks = Ranks(),  # noqa: B008
    images: ImageReader | None = None,
    mixed: ShardDataset | None = None,
    workers: int = 1,
    skip_bad: bool = False,
    checkpoint_every: int = 200,
    keep: int = KEPT,
    record: dict[str, Any] | None = None,
    watch_every: int = 100,
    tensorboard: bool = False,
    on_step: Callable[[Metrics], None] = lambda metrics: None,
    on_passed_over: Callable[[str], None] = lambda fault: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train, or continue, the run in the folder ``run``; it ends with a checkpoint.

    A continued run equals one that was never stopped, to the bit (same machine, number of ranks and of torch's
    threads), wherever the run was stopped or killed.

    Args:
        ranks: This process among those that train together; each takes its share of every batch, the first one
            writes. All must see the folder.
        images: Reads the images of ``shards`` from elsewhere, as :class:`genrep.shards.ffcv.FfcvSet` does.
        mixed: The set of which a part of every batch is.
        workers: Threads that prepare batches.
        skip_bad: Put others in the place of damaged samples; their faults are told.
        keep: How many of the last checkpoints stay.
        record: What ``config.json`` says beside the config.
        watch_every: Steps between collapse signals, which go into the metrics.
        tensorboard: Also write metrics, and pictures of batches, for TensorBoard.
        on_step: Told of every update.
        on_passed_over: Told of every damaged sample of this rank's share.
        should_stop: Asked after every update; True on one rank saves a checkpoint and ends the call on all.

    Returns:
        Updates done so far; ``config.steps`` when the run is finished.

    Raises:
        DataError: If the folder holds another run, the batch cannot be shared by the ranks, the data cannot be read,
            or the loss is no longer finite.
    """
    saved = ranks.agreed(lambda: _last_checkpoint(run, config, world=ranks.world))
    learner = Learner(config, device=device, ranks=ranks)
    start = learner.restore(saved) if saved else 0
    if start >= config.steps:
        return start
    writer = summary_writer() if tensorboard and ranks.rank == 0 else None
    batches = Loader(
        shards,
        config,
        images=images,
        mixed=mixed,
        workers=workers,
        rank=ranks.rank,
        world=ranks.world,
        device=learner.device,
        skip_bad=skip_bad,
    ).batches(start)
    first = next(batches)  # before the folder is made: data that cannot be read leave nothing behind
    with (
        _opened(run, config, ranks, step=start, record=record or {}) as append_metrics,
        writer(str(run / TENSORBOARD), purge_step=start + 1) if writer else nullcontext() as board,
    ):
        watch = Watch(shards, config, every=watch_every, board=board)
        batches = chain([first], batches)
        for step in range(start, config.steps):
            began = perf_counter()
            batch = next(batches)
            waited = perf_counter() - began
            lr = config.optimiser.lr_at(step, config.steps)
            loss = learner.update(batch, lr=lr, done=(step + 1) / config.steps)
            seconds = perf_counter() - began
            if not math.isfinite(loss):
                raise ranks.fault(
                    f"the loss is {loss} at step {step + 1} of {run}: start a new run with a smaller --lr than "
                    f"{config.optimiser.lr:g}"
                )
            metrics = Metrics(
                step=step + 1,
                loss=loss,
                images_per_s=round(ranks.world * len(batch.images) / seconds, 1),
                data_wait=round(waited / seconds, 4),
                lr=lr,
                batch_crc32=zlib.crc32(batch.global_samples.astype("<i8").tobytes()),
                passed_over=ranks.total(len(batch.passed_over), device=learner.device) if skip_bad else 0,
            )
            for fault in batch.passed_over:
                on_passed_over(fault)
            if ranks.rank == 0:
                append_metrics(watch.told(asdict(metrics), batch, learner.method.backbone))
            on_step(metrics)
            last = metrics.step == config.steps or ranks.any(should_stop(), device=learner.device)
            if ranks.rank == 0 and (last or metrics.step % checkpoint_every == 0):
                save_checkpoint(run, metrics.step, config, learner.states(), keep=keep)
            if last:
                return metrics.step
    raise AssertionError("the loop ends in its last step")


def _last_checkpoint(run: Path, config: TrainConfig, *, world: int) -> Path | None:
    """The one to go on from, if there is one; raises DataError if the folder or the batch will not do."""
    if config.batch_size % world:
        raise DataError(
            f"a batch of {config.batch_size} cannot be shared equally by {world} ranks: use a --batch-size of "
            f"{config.batch_size // world * world or world}"
        )
    check_run(run, config)
    return max(checkpoints(run), default=None)


@contextmanager
def _opened(
    run: Path, config: TrainConfig, ranks: Ranks, *, step: int, record: dict[str, Any]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """:func:`open_run` on the first rank; the others wait for it and write nothing."""
    append: Callable[[dict[str, Any]], None] = lambda line: None  # noqa: E731
    with ExitStack() as opened:

        def open_first() -> None:
            nonlocal append
            append = opened.enter_context(open_run(run, config, step=step, record=record))

        ranks.agreed(open_first)
        yield append
