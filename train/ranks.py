"""The processes that train together: which one this is, and what they tell each other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from genrep.shards.errors import DataError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """Process ``rank`` of ``world``; alone, everything here does nothing."""

    rank: int = 0
    world: int = 1

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (B, ...) of this rank -> (world * B, ...) of all, in the order of the global batch, with gradients.

        The gradients are right for a loss that every rank computes in full and for parameters whose gradients are
        then averaged over ranks.
        """
        return _Gather.apply(rows, self) if self.world > 1 else rows

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over ranks."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def any(self, flag: bool, *, device: torch.device) -> bool:
        """Whether the flag is up on a rank."""
        return bool(self.mean(torch.tensor(float(flag), device=device)) > 0)

    def total(self, count: int, *, device: torch.device) -> int:
        """The sum of a count over ranks."""
        return round(self.mean(torch.tensor(float(count), device=device)).item() * self.world)

    def agreed(self, decide: Callable[[], Value]) -> Value:
        """What ``decide`` returns on the first rank, on all ranks; its DataError is raised on all of them too."""
        if self.world == 1:
            return decide()
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = decide()
            except DataError as error:
                answer[1] = str(error)
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise self.fault(answer[1])
        return answer[0]

    def fault(self, message: str) -> DataError:
        """The error of something that is wrong on all ranks, so that one of them says it."""
        return DataError(message) if self.rank == 0 else SaidElsewhereError(message)


class SaidElsewhereError(DataError):
    """What the first rank says too."""


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks of the processes that ``torchrun`` started; without it this process alone.

    Raises:
        DataError: If the others cannot be reached, or one of them ends before its time.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield Ranks()
        return
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the other {world - 1} ranks cannot be reached ({reason}): start all by torchrun") from error
    try:
        yield Ranks(rank, world)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise DataError("another rank has ended: mend what it says, then the same command continues") from error
    finally:
        dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """As ``torchrun`` says in the environment; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        context.ranks = ranks
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(ranks.world)]
        dist.all_gather(parts, rows)
        return torch.stack(parts, 1).flatten(0, 1)  # row b of rank r is row b * world + r of the global batch

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        ranks = context.ranks
        own = gradients[0].unflatten(0, (-1, ranks.world))[:, ranks.rank]
        return own * ranks.world, None  # the factor is for the average that follows
