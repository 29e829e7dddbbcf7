"""BYOL: predict what a slowly following copy of the network makes of another image of the sample; no negatives."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from genrep.train.config import TrainConfig
from genrep.train.methods.method import Method, Outputs, Targets, mlp


class BYOL(Method):
    """Grill et al. 2020 (arXiv:2006.07733), section 3; hidden layers are twice as wide as the features, as theirs."""

    additive = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        features, projected = self.backbone.feature_dim, config.projection_dim
        self.projection_head = mlp(features, 2 * features, projected)
        self.predictor = mlp(projected, 2 * features, projected)
        self.target = copy.deepcopy(nn.Sequential(self.backbone, self.projection_head)).requires_grad_(False)

    def forward(self, images: torch.Tensor) -> Outputs:
        predictions = self.predictor(self.projection_head(self.backbone(images)))
        with torch.no_grad():
            targets = self.target(images)
        return F.normalize(predictions.float(), dim=1), F.normalize(targets.float(), dim=1)

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        return byol_loss(*outputs)

    @torch.no_grad()
    def after_step(self, done: float) -> None:
        assert self.config.target_momentum is not None
        momentum = target_momentum(self.config.target_momentum, done)
        online = [*self.backbone.parameters(), *self.projection_head.parameters()]
        for ours, theirs in zip(self.target.parameters(), online, strict=True):
            ours.lerp_(theirs, 1 - momentum)  # equation 1


def byol_loss(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared distance of each prediction from the target of another image of the sample.

    Args:
        predictions, targets: (B, V, P), rows of unit length, V >= 2.

    Returns:
        Scalar in [0, 8]: for V = 2 both directions summed, for more the same of an average pair; the mean over samples.

    Source: equation 2, and its symmetric form L + L~.
    """
    num_views = predictions.shape[1]
    distances = 2 - 2 * predictions @ targets.transpose(1, 2)  # (B, V, V); unit rows
    of_others = distances.sum((1, 2)) - distances.diagonal(dim1=1, dim2=2).sum(1)
    return 2 * of_others.mean() / (num_views * (num_views - 1))


def target_momentum(base: float, done: float) -> float:
    """tau of equation 1: from ``base`` to 1 along a cosine (section 3.3)."""
    return 1 - (1 - base) * (math.cos(math.pi * done) + 1) / 2
