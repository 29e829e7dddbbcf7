"""SimCLR: of all images in the batch, find the other one of the same sample."""

import torch
import torch.nn.functional as F

from genrep.train.backbones import projection_head
from genrep.train.config import TrainConfig
from genrep.train.losses import nt_xent
from genrep.train.methods.method import Method, Outputs, Targets


class SimCLR(Method):
    """Chen et al. 2020 (arXiv:2002.05709), algorithm 1; f is the backbone, g the projection head."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.projection_head = projection_head(self.backbone.feature_dim, config.projection_dim)

    def forward(self, images: torch.Tensor) -> Outputs:
        return (F.normalize(self.projection_head(self.backbone(images)).float(), dim=1),)  # z = g(f(x))

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        (projections,) = outputs
        return nt_xent(projections[:, 0], projections[:, 1], temperature=self.config.temperature)  # equation 1
