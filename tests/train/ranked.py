"""Run by several processes that each are a rank: the loss and the gradients of one batch by every method.

python ranked.py SET OUT, with RANK and WORLD_SIZE as torchrun sets them; the first rank saves what all should agree on.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from torch import nn

import genrep.shards
from genrep.train.config import METHODS, resolve
from genrep.train.data import Loader
from genrep.train.learner import Learner
from genrep.train.ranks import joined

SETTINGS = {method: {"method": method} for method in METHODS} | {
    "multipos, weighted": {"method": "multipos", "latent_tau": 0.3},
    "simclr in parts": {"method": "simclr", "chunk": 2},
    "byol in parts": {"method": "byol", "chunk": 2},
}


def without_batch_norm():
    """Batch statistics are those of the share, so nets with them differ between one rank and two."""
    nn.BatchNorm1d = nn.BatchNorm2d = lambda channels: nn.Identity()


def loss_and_gradients(folder, settings, ranks):
    """Of the first batch, by parameter name; the loss under ``loss``."""
    shards = genrep.shards.open(folder)
    config = resolve(shards, batch_size=8, steps=1, **settings)
    config = dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, name="sgd", lr=0, momentum=0))
    learner = Learner(config, device="cpu", ranks=ranks)
    (batch,) = Loader(shards, config, rank=ranks.rank, world=ranks.world).batches(0)
    loss = learner.update(batch, lr=0, done=1)
    gradients = {name: each.grad for name, each in learner.method.named_parameters() if each.requires_grad}
    return {"loss": torch.tensor(loss)} | gradients


if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    without_batch_norm()
    with joined("cpu") as ranks:
        found = {name: loss_and_gradients(folder, settings, ranks) for name, settings in SETTINGS.items()}
    if ranks.rank == 0:
        torch.save(found, out)
