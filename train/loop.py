"""Contrastive training: two views, backbone, projection head, loss, step."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from genrep.shards.errors import DataError
from genrep.shards.reader import ShardDataset
from genrep.train.backbones import build_backbone, projection_head
from genrep.train.checkpoint import checkpoints, load_checkpoint, load_strictly, save_checkpoint
from genrep.train.config import Optimiser, TrainConfig
from genrep.train.data import Batch, Loader
from genrep.train.losses import nt_xent, sup_con
from genrep.train.run import check_run, open_run


@dataclass(frozen=True)
class Metrics:
    """A line of ``metrics.jsonl``.

    Attributes:
        step: Updates done, from 1.
        loss: Of this update's batch, ``loss_scale`` included.
        images_per_s: Views through the network, over the update's whole time.
        data_wait: Share of that time spent waiting for the batch, in [0, 1].
        lr: Learning rate of this update.
    """

    step: int
    loss: float
    images_per_s: float
    data_wait: float
    lr: float


class Learner:
    """Backbone, projection head and optimiser: what training changes and a checkpoint holds.

    The first weights depend on the config's seed; torch's global random state stays as it was.
    """

    def __init__(self, config: TrainConfig, *, device: str) -> None:
        self.config = config
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.backbone = build_backbone(config.backbone)
            self.projection_head = projection_head(self.backbone.feature_dim, config.projection_dim)
        self.backbone.to(self.device).to(memory_format=torch.channels_last)
        self.projection_head.to(self.device)
        self.optimiser = _optimiser(config.optimiser, [*self.backbone.parameters(), *self.projection_head.parameters()])

    def update(self, batch: Batch, *, lr: float) -> float:
        """One step on a batch; returns its loss, before the step."""
        config = self.config
        images = batch.images.to(self.device, non_blocking=True)  # T(x): both views in one pass
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            features = self.backbone(images)
            projections = self.projection_head(features)
        projections = (
            F.normalize(projections.float(), dim=1).unflatten(0, (config.images_per_sample, -1)).transpose(0, 1)
        )
        if config.method == "supcon":
            loss = sup_con(projections, batch.labels.to(self.device), temperature=config.temperature)
        else:
            loss = nt_xent(projections[:, 0], projections[:, 1], temperature=config.temperature)
        loss = config.loss_scale * loss
        self.optimiser.zero_grad()
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        return loss.item()

    def states(self) -> dict[str, Any]:
        """State dicts, by name."""
        return {
            "backbone": self.backbone.state_dict(),
            "projection_head": self.projection_head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, path: Path) -> int:
        """Load the states of a checkpoint; returns the updates behind it."""
        content = load_checkpoint(path)
        load_strictly(self.backbone, content["backbone"], where=f"{path}: the backbone")
        load_strictly(self.projection_head, content["projection_head"], where=f"{path}: the projection head")
        self.optimiser.load_state_dict(content["optimiser"])
        return content["step"]


def train(
    shards: ShardDataset,
    config: TrainConfig,
    run: Path,
    *,
    device: str = "cpu",
    loader_threads: int = 1,
    checkpoint_every: int = 200,
    record: dict[str, Any] | None = None,
    on_step: Callable[[Metrics], None] = lambda metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train, or continue, the run in the folder ``run``; it ends with a checkpoint.

    On a CPU the weights are a function of data set and config to the bit (at one number of torch's threads), wherever
    the run was stopped or killed.

    Args:
        record: What ``config.json`` says beside the config.
        on_step: Told of every update.
        should_stop: Asked after every update; True saves a checkpoint and ends the call.

    Returns:
        Updates done so far; ``config.steps`` when the run is finished.

    Raises:
        DataError: If the folder holds another run, the data cannot be read, or the loss is no longer finite.
    """
    check_run(run, config)
    learner = Learner(config, device=device)
    saved = checkpoints(run)
    start = learner.restore(saved[-1]) if saved else 0
    if start >= config.steps:
        return start
    batches = Loader(shards, config, threads=loader_threads).batches(start)
    first = next(batches)  # before the folder is made: data that cannot be read leave nothing behind
    with open_run(run, config, step=start, record=record or {}) as append_metrics:
        batches = chain([first], batches)
        for step in range(start, config.steps):
            began = perf_counter()
            batch = next(batches)
            waited = perf_counter() - began
            lr = config.optimiser.lr_at(step, config.steps)
            loss = learner.update(batch, lr=lr)
            seconds = perf_counter() - began
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss is {loss} at step {step + 1} of {run}: start a new run with a smaller --lr than "
                    f"{config.optimiser.lr:g}"
                )
            metrics = Metrics(
                step=step + 1,
                loss=loss,
                images_per_s=round(len(batch.images) / seconds, 1),
                data_wait=round(waited / seconds, 4),
                lr=lr,
            )
            append_metrics(asdict(metrics))
            on_step(metrics)
            last = metrics.step == config.steps or should_stop()
            if last or metrics.step % checkpoint_every == 0:
                save_checkpoint(run, metrics.step, config, learner.states())
            if last:
                return metrics.step
    raise AssertionError("the loop ends in its last step")


def _optimiser(settings: Optimiser, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
