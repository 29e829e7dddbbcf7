"""Encoders that learned nothing: what a number must exceed to say anything about learning."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from genrep.evaluate.encoders import TORCHSCRIPT, build
from genrep.evaluate.features import Encoder, backbone_encoder
from genrep.train.checkpoint import LoadedBackbone

SEED = 0  # of the untrained weights
FILTERS, KERNEL, POOL = 128, 5, 3


def floors(backbone: LoadedBackbone, *, side: int, pooled: bool = False) -> list[Encoder]:
    """The three floors of a trained backbone, on images of ``side`` px where they are not the backbone itself.

    A network that is only known as a program (``torchscript:``) cannot be made again untrained: it has two floors.

    Args:
        pooled: As for :func:`~genrep.evaluate.features.backbone_encoder`.
    """
    own = [untrained_backbone(backbone, pooled=pooled)] if backbone.name != TORCHSCRIPT else []
    return [raw_pixels(side), *own, untrained_convolution(side)]


def raw_pixels(side: int) -> Encoder:
    """The image itself as the feature: (B, C, side, side) -> (B, C * side**2)."""
    return _stateless("raw pixels", side, lambda images: images.flatten(1), batch=512)


def untrained_convolution(side: int) -> Encoder:
    """128 filters of 5x5, ReLU, averages over a 3x3 grid: (B, C, side, side) -> (B, 1152).

    The weights are drawn as torch.nn.Conv2d draws them.
    """
    filters = {channels: _convolution(channels) for channels in (1, 3)}

    def apply(images: torch.Tensor) -> torch.Tensor:
        weights, bias = (tensor.to(images.device) for tensor in filters[images.shape[1]])
        maps = F.conv2d(images.contiguous(memory_format=torch.channels_last), weights, bias)
        return F.adaptive_avg_pool2d(torch.relu_(maps), POOL).flatten(1)

    return _stateless("untrained convolution", side, apply, batch=32)  # what fits the cache is much faster


def _convolution(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    bound = (channels * KERNEL**2) ** -0.5
    weights = torch.empty(FILTERS, channels, KERNEL, KERNEL).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(FILTERS).uniform_(-bound, bound, generator=generator)
    return weights.contiguous(memory_format=torch.channels_last), bias


def untrained_backbone(backbone: LoadedBackbone, *, pooled: bool = False) -> Encoder:
    """The same network with fresh weights, on the same preparation of the images."""
    with torch.random.fork_rng(devices=[]):  # initialisers of torch.nn know the global state only
        torch.manual_seed(SEED)
        module = build(backbone.name)
    identity = {"untrained": backbone.name, "seed": SEED, "torch": torch.__version__}
    return backbone_encoder("untrained backbone", backbone, module, identity, pooled=pooled)


def _stateless(name: str, side: int, apply: Callable[[torch.Tensor], torch.Tensor], *, batch: int) -> Encoder:
    identity = {"floor": name, "side": side, "seed": SEED, "torch": torch.__version__}
    return Encoder(name, identity, side, side, apply, to=lambda device: None, batch=batch, worth_keeping=False)
