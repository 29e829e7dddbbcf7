"""Backbones: networks from images to features, and the projection head that training puts on top."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from genrep.shards.errors import DataError

TINY = "resnet-tiny"


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> features (B, F)."""

    feature_dim: int  # F


class TinyResNet(Backbone):
    """A residual network for images of 28 to 64 px: (B, 3, H, W) -> (B, 128), 0.29 M parameters.

    A strided 5x5 stem, two strided residual blocks of 64 and 128 channels, average pooling.
    """

    feature_dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(32))
        self.blocks = nn.Sequential(_Residual(32, 64, stride=2), _Residual(64, 128, stride=2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.blocks(F.relu(self.stem(images), inplace=True)).mean((2, 3))


class _Residual(nn.Module):
    """He et al. 2016's basic block (arXiv:1512.03385, figure 5, option B)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.relu(self.convolutions(features) + self.shortcut(features), inplace=True)


def build_backbone(name: str) -> Backbone:
    """A backbone with fresh weights from torch's random state.

    Args:
        name: ``resnet-tiny``, or a ResNet of torchvision (``resnet18``, ``resnet50``, ``wide_resnet50_2``, ...), whose
            classifier is replaced by the identity.

    Raises:
        DataError: If the name is unknown.
    """
    if name == TINY:
        return TinyResNet()
    if name not in known_backbones():
        raise DataError(f"unknown backbone {name!r}: use one of {', '.join(known_backbones())}")
    import torchvision

    backbone = torchvision.models.get_model(name)
    backbone.feature_dim = backbone.fc.in_features
    backbone.fc = nn.Identity()
    return cast(Backbone, backbone)


def known_backbones() -> list[str]:
    """Names that :func:`build_backbone` takes."""
    import torchvision

    return [TINY, *torchvision.models.list_models(include=("resnet*", "resnext*", "wide_resnet*"))]


def projection_head(feature_dim: int, projection_dim: int) -> nn.Module:
    """Features (B, F) -> projections (B, P), not yet of unit length: linear F, ReLU, linear (SimCLR, section 2)."""
    return nn.Sequential(
        nn.Linear(feature_dim, feature_dim), nn.ReLU(inplace=True), nn.Linear(feature_dim, projection_dim)
    )
