"""The small networks of the embedded generators: 28 x 28 grey garments, ten classes and a null mode."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from genrep.generate.fashion.jitter import NUM_DRAWS, Jitter, jittered_by

LATENT_DIM = 64
EMBEDDING_DIM = 32
NUM_CLASSES = 10
NULL = NUM_CLASSES  # the label of the unconditional mode, which never sees a class


class ConditionalNorm(nn.Module):
    """Batch norm whose gain and bias are linear in the conditioning vector (BigGAN, Brock et al. 2019)."""

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(cond_dim, channels)
        self.bias = nn.Linear(cond_dim, channels)

    def forward(self, x: Tensor, cond: Tensor, before: Tensor | None = None) -> Tensor:
        """``before`` (C,): bias of the layer in front, which left it out."""
        norm: Any = self.norm
        gain, bias = 1 + self.gain(cond), self.bias(cond)
        if self.training:
            x = norm(x if before is None else x + before[:, None, None])
        else:  # with the norm's own steps in gain and bias, x is gone through once
            mean = norm.running_mean if before is None else norm.running_mean - before
            gain = gain * (norm.running_var + norm.eps).rsqrt()
            bias = bias - mean * gain
        return torch.addcmul(bias.to(x.dtype)[:, :, None, None], x, gain.to(x.dtype)[:, :, None, None])


class Drawing(nn.Module):
    """A conditioning vector (B, C) -> images (B, 1, 28, 28) in [-1, 1]."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.stem = nn.Linear(cond_dim, 192 * 7 * 7)
        self.norms = nn.ModuleList(ConditionalNorm(c, cond_dim) for c in (192, 128, 64, 32))
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(192, 128, 3, padding=1),
                nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),  # 14 px
                nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),  # 28 px
                nn.Conv2d(32, 1, 3, padding=1),
            ]
        )

    def drawn(self, cond: Tensor) -> Tensor:
        x = self.stem(cond).view(-1, 192, 7, 7).contiguous(memory_format=torch.channels_last)
        bias = None
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = F.relu(norm(x, cond, bias), inplace=True)
            x, bias = without_bias(conv, x), conv.bias
        return torch.tanh(x + bias)


class NullGenerator(Drawing):
    """z (B, 64) and labels (B,) in 0..10, or None for the null mode -> images (B, 1, 28, 28) in [-1, 1].

    A class conditions through a learned embedding. The null mode has no class to condition on:
    a small network of z takes the embedding's place, so that one latent space can hold ten kinds
    of garment with gaps between them. Of the two modes only the null one is used; it learned beside the other.
    """

    def __init__(self) -> None:
        super().__init__(LATENT_DIM + EMBEDDING_DIM)
        self.embedding = nn.Embedding(NUM_CLASSES, EMBEDDING_DIM)
        self.null_embedding = nn.Sequential(nn.Linear(LATENT_DIM, 128), nn.ReLU(), nn.Linear(128, EMBEDDING_DIM))
        _orthogonal(self)

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            labels = torch.full((len(z),), NULL, device=z.device)
        null = (labels == NULL)[:, None]
        embedding = torch.where(null, self.null_embedding(z), self.embedding(labels.clamp(max=NUM_CLASSES - 1)))
        return self.drawn(torch.cat([z, embedding], dim=1))


class ClassGenerator(Drawing):
    """z (B, 64) and labels (B,) in 0..9 -> images (B, 1, 28, 28) in [-1, 1].

    The first five latents say how the garment lies (rotation, scale, shifts, brightness: through the normal's
    distribution function to the draws of the training images' jitter), the others and the class how it looks.
    """

    def __init__(self) -> None:
        super().__init__(LATENT_DIM - NUM_DRAWS + EMBEDDING_DIM)
        self.embedding = nn.Embedding(NUM_CLASSES, EMBEDDING_DIM)
        _orthogonal(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        garment = self.drawn(torch.cat([z[:, NUM_DRAWS:], self.embedding(labels)], dim=1))
        draws = torch.special.ndtr(z[:, :NUM_DRAWS].float())
        return jittered_by(draws, garment.float() / 2 + 0.5, Jitter())


def without_bias(conv: Any, x: Tensor) -> Tensor:
    """A convolution of this network, but for its bias."""
    if conv.transposed:
        return F.conv_transpose2d(x, conv.weight, stride=conv.stride, padding=conv.padding)
    if conv.out_channels == 1 and not x.is_cuda:
        return _one_channel(x, conv.weight)
    return F.conv2d(x, conv.weight, padding=conv.padding)


def _one_channel(x: Tensor, weight: Tensor) -> Tensor:
    """The 3 x 3 convolution (B, C, H, W) -> (B, 1, H, W) as a matrix product and nine shifted sums.

    The processors' kernels compute many output channels at once, and here most of them would be nobody's.
    """
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    taps = weight.permute(2, 3, 0, 1).reshape(9, channels) @ pixels.T
    taps = F.pad(taps.view(3, 3, batch, height, width), (1, 1, 1, 1))
    shifted = [taps[i, j, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return sum(shifted[1:], start=shifted[0])[:, None]


class ProjectedDiscriminator(nn.Module):
    """Images (B, 1, 28, 28) and labels (B,) in 0..9 -> logits (B,), from four maps of a frozen classifier.

    One head a map, each of which ends in a class projection; their outputs are added (Sauer et al. 2021, without its
    random mixing of the maps).
    """

    def __init__(self, maps: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.maps = maps
        self.heads = nn.ModuleList(Head(32 * width, stride) for width, stride in ((1, 2), (2, 2), (4, 1), (4, 1)))
        _orthogonal(self)
        for module in self.heads.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                spectral_norm(module)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = [head(x, labels) for head, x in zip(self.heads, self.maps(images), strict=True)]
        return torch.stack(logits).sum(dim=0)


class Head(nn.Module):
    """A map (B, C, H, W) and labels (B,) -> logits (B,)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(channels, 64, 3, stride=stride, padding=1), nn.Conv2d(64, 64, 3, padding=1)]
        )
        self.linear = nn.Linear(64, 1)
        self.embedding = nn.Embedding(NUM_CLASSES, 64)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        return projected(x.sum(dim=(2, 3)) / 4, labels, self)


class Discriminator(nn.Module):
    """Images (B, 1, 28, 28) and labels (B,) in 0..10 -> logits (B,); projection discriminator (Miyato 2018)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(1, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1), (128, 256, 2)]  # in, out, stride
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=s, padding=1) for i, o, s in widths)
        self.linear = nn.Linear(256, 1)
        self.embedding = nn.Embedding(NUM_CLASSES + 1, 256)
        _orthogonal(self)
        for module in [*self.convs, self.linear, self.embedding]:
            spectral_norm(module)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = images
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        return projected(x.sum(dim=(2, 3)), labels, self)


def projected(features: Tensor, labels: Tensor, network: Any) -> Tensor:
    """A linear output plus the inner product with the class (Miyato and Koyama 2018): (B, C), (B,) -> (B,)."""
    return network.linear(features)[:, 0] + (features * network.embedding(labels)).sum(dim=1)


def _orthogonal(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            nn.init.orthogonal_(module.weight)
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
