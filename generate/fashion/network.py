"""The two small networks of the embedded generator: 28 x 28 grey garments, ten classes and a null mode."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from genrep.generate.folding import ConditionalAffine, channels_last

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

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.norm(x) * (1 + self.gain(cond)[:, :, None, None]) + self.bias(cond)[:, :, None, None]


class Generator(nn.Module):
    """z (B, 64) and labels (B,) in 0..10 -> images (B, 1, 28, 28) in [-1, 1].

    A class conditions through a learned embedding. The null mode has no class to condition on:
    a small network of z takes the embedding's place, so that one latent space can hold ten kinds
    of garment with gaps between them.
    """

    def __init__(self) -> None:
        super().__init__()
        cond_dim = LATENT_DIM + EMBEDDING_DIM
        self.embedding = nn.Embedding(NUM_CLASSES, EMBEDDING_DIM)
        self.null_embedding = nn.Sequential(nn.Linear(LATENT_DIM, 128), nn.ReLU(), nn.Linear(128, EMBEDDING_DIM))
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
        _orthogonal(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        null = (labels == NULL)[:, None]
        embedding = torch.where(null, self.null_embedding(z), self.embedding(labels.clamp(max=NUM_CLASSES - 1)))
        cond = torch.cat([z, embedding], dim=1)
        x = self.stem(cond).view(-1, 192, 7, 7).contiguous(memory_format=torch.channels_last)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(F.relu(norm(x, cond)))
        return torch.tanh(x)


def folded(network: Generator) -> Generator:
    """A copy for rendering: batch norms and the biases before them become one multiply-add."""
    result = copy.deepcopy(network)
    norms: Any = network.norms
    convs: Any = result.convs
    before = None
    for place, (norm, conv) in enumerate(zip(norms, convs, strict=True)):
        mean, var, eps = norm.norm.running_mean, norm.norm.running_var, norm.norm.eps
        result.norms[place] = ConditionalAffine(norm.gain, norm.bias, mean=mean, var=var, eps=eps, before=before)
        if place + 1 < len(norms):
            before, conv.bias = conv.bias, None
    channels_last(result)
    return result


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
        features = x.sum(dim=(2, 3))
        return self.linear(features)[:, 0] + (features * self.embedding(labels)).sum(dim=1)


def _orthogonal(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            nn.init.orthogonal_(module.weight)
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
