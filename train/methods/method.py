"""What a training method is: a backbone with heads, a loss of what they give, and what follows a step."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from genrep.train.backbones import build_backbone
from genrep.train.config import TrainConfig

Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Targets:
    """What is known of B samples, in V images each.

    Attributes:
        labels: int64 (B,), -1 where there is none.
        latents: float32 (B, V, D) of the images, where the config needs them.
    """

    labels: torch.Tensor
    latents: torch.Tensor | None


class Method(nn.Module):
    """Networks and their loss; a subclass adds its heads after the backbone, and a checkpoint holds each of them.

    The loss is a function of what the networks give for each image on its own. So the loop may put the batch through
    them in parts, on one machine or several, and still take the loss of the whole.

    Attributes:
        additive: Whether the loss is a mean over samples: then it is taken of each part by itself.
    """

    additive = False

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)

    def forward(self, images: torch.Tensor) -> Outputs:
        """What the loss needs of images (M, 3, S, S): float32 tensors of M rows."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        """The scalar to be lowered, from the outputs arranged as (B, V, ...)."""
        raise NotImplementedError

    def after_step(self, done: float) -> None:
        """What follows an update of the weights; ``done`` is the share of all updates behind us, in (0, 1]."""


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers from width to width, batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
