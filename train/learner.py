"""What training changes: the networks of a method and their optimiser; one update is loss, gradient, step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel

from genrep.shards.errors import DataError
from genrep.train.checkpoint import load_checkpoint, load_strictly
from genrep.train.config import TrainConfig
from genrep.train.data import Batch
from genrep.train.methods import build_method
from genrep.train.methods.method import Outputs, Targets
from genrep.train.optimisers import build_optimiser
from genrep.train.ranks import Ranks


class Learner:
    """Networks and optimiser of one rank, equal on all ranks.

    The first weights depend on the config's seed; torch's global random state stays as it was.

    Raises:
        DataError: If the device cannot do what the config asks.
    """

    def __init__(self, config: TrainConfig, *, device: str, ranks: Ranks) -> None:
        self.config = config
        self.device = torch.device(device)
        self.ranks = ranks
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.method = build_method(config)
        if config.sync_bn and self.device.type == "cpu":
            raise DataError("--sync-bn needs GPUs, torch's synchronised batch norm has no CPU form: leave it out")
        if config.sync_bn:
            self.method = nn.SyncBatchNorm.convert_sync_batchnorm(self.method)
        self.method.to(self.device).to(memory_format=torch.channels_last)
        self.optimiser = build_optimiser(
            config.optimiser, [each for each in self.method.parameters() if each.requires_grad]
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.dtype == "float16")
        if config.compile:
            self.method.compile()
        self.network: nn.Module = self.method  # as it is called; its gradients are averaged over ranks
        if ranks.world > 1:
            self.network = DistributedDataParallel(
                self.method, device_ids=[self.device] if self.device.type == "cuda" else None
            )

    def update(self, batch: Batch, *, lr: float, done: float) -> float:
        """One step on a rank's share of a global batch; returns the loss of the whole, before the step.

        Args:
            done: Share of all updates that are done after this one.

        Raises:
            DataError: If the networks are to be compiled and cannot be.
        """
        self.optimiser.zero_grad()
        with _compiling():
            loss = self.ranks.mean(self._backward(batch))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.method.after_step(done)
        return loss.item()

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Leave the gradient of a batch's loss in the parameters; returns the loss."""
        parts = list(self._parts(batch))
        if len(parts) > 1 and not self.method.additive:
            return self._cached_backward(parts)
        total = torch.zeros((), device=self.device)
        for number, (images, targets) in enumerate(parts):
            with self._averaging(number == len(parts) - 1):
                loss = (
                    len(targets.labels) / len(batch.labels) * self._loss(self._outputs(self.network, images), targets)
                )
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _cached_backward(self, parts: list[tuple[torch.Tensor, Targets]]) -> torch.Tensor:
        """The gradient of a loss in which all samples meet, with the graph of one part of them in memory at a time.

        Source: Gao et al. 2021 (arXiv:2101.06983), section 3.2: outputs of all parts without a graph, the gradient of
        the loss in them, and each part again with its share of that gradient.
        """
        with torch.no_grad():
            outputs = [self._outputs(self.method, images) for images, _ in parts]
        cached = tuple(torch.cat(each).requires_grad_() for each in zip(*outputs, strict=True))
        latents = [part.latents for _, part in parts if part.latents is not None]
        targets = Targets(
            labels=torch.cat([part.labels for _, part in parts]), latents=torch.cat(latents) if latents else None
        )
        loss = self._loss(cached, targets)
        gradients = torch.autograd.grad(self.scaler.scale(loss), cached)
        first = 0
        for number, (images, part) in enumerate(parts):
            here = slice(first, first := first + len(part.labels))
            with self._averaging(number == len(parts) - 1):
                torch.autograd.backward(self._outputs(self.network, images), [each[here] for each in gradients])
        return loss.detach()

    def _parts(self, batch: Batch) -> Iterator[tuple[torch.Tensor, Targets]]:
        """Images (V, n, 3, S, S) and targets of at most ``chunk`` samples at a time, on the device."""
        images = batch.images.unflatten(0, (self.config.images_per_sample, -1))
        latents = None if batch.latents is None else batch.latents.unflatten(0, images.shape[:2]).transpose(0, 1)
        size = self.config.chunk or len(batch.labels)
        for first in range(0, len(batch.labels), size):
            here = slice(first, first + size)
            yield (
                images[:, here].to(self.device, non_blocking=True),
                Targets(
                    labels=batch.labels[here].to(self.device, non_blocking=True),
                    latents=None if latents is None else latents[here].to(self.device, non_blocking=True),
                ),
            )

    def _outputs(self, network: nn.Module, images: torch.Tensor) -> Outputs:
        """What a network gives for images (V, n, 3, S, S), all in one pass, as (n, V, ...)."""
        dtype = getattr(torch, self.config.dtype)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            rows = network(images.flatten(0, 1))
        return tuple(each.unflatten(0, images.shape[:2]).transpose(0, 1) for each in rows)

    def _loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        """Of the samples of all ranks where they have to meet, else of those given."""
        if not self.method.additive:
            outputs = tuple(self.ranks.gather(each) for each in outputs)
            latents = targets.latents
            targets = Targets(
                labels=self.ranks.gather(targets.labels),
                latents=None if latents is None else self.ranks.gather(latents),
            )
        return self.config.loss_scale * self.method.loss(outputs, targets)

    def _averaging(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over ranks once, in the last backward pass of an update."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    def states(self) -> dict[str, Any]:
        """State dicts by name: of the backbone, of each head, of the optimiser, and with float16 of the loss scaler."""
        states = {name: part.state_dict() for name, part in self.method.named_children()}
        states["optimiser"] = self.optimiser.state_dict()
        return states | ({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {})

    def restore(self, path: Path) -> int:
        """Load the states of a checkpoint; returns the updates behind it.

        Raises:
            DataError: If it cannot be read, or holds other networks.
        """
        content = load_checkpoint(path)
        for name, part in self.method.named_children():
            load_strictly(part, content.get(name, {}), where=f"{path}: the {name.replace('_', ' ')}")
        self.optimiser.load_state_dict(content["optimiser"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler"])
        return content["step"]


@contextmanager
def _compiling() -> Iterator[None]:
    """A failure of the compiler, which runs when the networks are first used, is one line."""
    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the networks cannot be compiled here ({reason}): leave out --compile") from error
