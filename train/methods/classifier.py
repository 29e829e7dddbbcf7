"""Classifier: tell from an image the class that was given to the generator."""

import torch
import torch.nn.functional as F
from torch import nn

from genrep.train.config import TrainConfig
from genrep.train.methods.method import Method, Outputs, Targets


class Classifier(Method):
    """The baseline of Jahanian et al. 2022 (arXiv:2106.05258) for class-conditional generators."""

    additive = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.class_head = nn.Linear(self.backbone.feature_dim, config.num_classes)

    def forward(self, images: torch.Tensor) -> Outputs:
        return (self.class_head(self.backbone(images)).float(),)

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        (logits,) = outputs
        return F.cross_entropy(logits[:, 0], targets.labels)
