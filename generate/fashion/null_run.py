"""Training of the null mode: beside a class mode, whose layers it shares."""

import torch
from torch import Tensor

from genrep.generate.fashion.network import NULL, NUM_CLASSES, Discriminator, NullGenerator
from genrep.generate.fashion.run import Run, seed_of


class NullRun(Run):
    """In every batch half of the images carry their class, half the null label."""

    def __init__(self, *, steps: int, batch_size: int, seed: int) -> None:
        torch.manual_seed(seed_of(seed, 0, 0))
        super().__init__(NullGenerator, [Discriminator()], steps=steps, batch_size=batch_size, seed=seed)

    def labels_of(self, real: Tensor, labels: Tensor) -> Tensor:
        return _half_forgotten(labels)

    def drawn_labels(self, count: int, draws: torch.Generator) -> Tensor:
        return _half_forgotten(torch.randint(NUM_CLASSES, (count,), generator=draws))


def _half_forgotten(labels: Tensor) -> Tensor:
    return torch.where(torch.arange(len(labels)) < len(labels) // 2, labels, NULL)
