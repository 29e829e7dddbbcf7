"""Inverter: tell from an image the latent it was rendered from, and with a conditional generator its class."""

import torch
import torch.nn.functional as F
from torch import nn

from genrep.train.config import TrainConfig
from genrep.train.methods.method import Method, Outputs, Targets


class Inverter(Method):
    """Jahanian et al. 2022 (arXiv:2106.05258), figure 3: G(z) -> z, linear heads F_z and F_y on the features.

    The loss is mean (F_z(x) - z)^2, and with classes plus the cross-entropy of F_y(x), 1 : 1, as in their code.
    The latent is that of the image shown, also where it is a view.
    """

    additive = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.latent_head = nn.Linear(self.backbone.feature_dim, config.latent_dim)
        self.class_head = nn.Linear(self.backbone.feature_dim, config.num_classes) if config.num_classes else None

    def forward(self, images: torch.Tensor) -> Outputs:
        features = self.backbone(images)
        heads = [self.latent_head] + ([self.class_head] if self.class_head else [])
        return tuple(head(features).float() for head in heads)

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        latents, *logits = outputs
        assert targets.latents is not None
        loss = F.mse_loss(latents, targets.latents)
        for each in logits:
            loss = loss + F.cross_entropy(each[:, 0], targets.labels)
        return loss
