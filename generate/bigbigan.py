"""BigBiGAN (Donahue and Simonyan 2019), the unconditional 128 px generator of the paper, from its PyTorch port's file.

The port (lukemelas/pytorch-pretrained-gans) keeps DeepMind's weights in a BigGAN generator that always gets class 0.
The latent is hierarchical: its first block makes the 4 x 4 beginning, each further block conditions one stage.
"""

import copy
import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrep.generate.fingerprint import fingerprint
from genrep.generate.folding import ConditionalAffine, channels_last, doubling_conv
from genrep.generate.latents import PRIORS
from genrep.generate.unpickling import load_strictly, load_tensors
from genrep.generate.untrained import normal_tensors
from genrep.shards.errors import DataError

_LICENCE = "none named, neither by DeepMind nor by the port"

ABOUT = {
    "bigbigan": {
        "needs": "--weights FILE (BigBiGAN_x1.pth)",
        "licence": _LICENCE,
        "latent": "120 in 6 blocks of 20, truncated normal",
        "resolution": "128 x 128",
        "source": "pytorch-pretrained-gans",
    }
}

_EPSILON = 1e-4  # of spectral norms and conditional batch norms
_OUTPUT_EPSILON = 1e-5  # the port leaves the last batch norm at its default


class _ConditionalNorm(nn.Module):
    """Batch norm with stored statistics; gain and bias are linear in the condition."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.gain = nn.Linear(condition, channels, bias=False)
        self.bias = nn.Linear(condition, channels, bias=False)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = F.batch_norm(x, self.stored_mean, self.stored_var, eps=_EPSILON)
        return x * (1 + self.gain(condition))[:, :, None, None] + self.bias(condition)[:, :, None, None]


class _Block(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, in_channels: int, out_channels: int, condition: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_sc = nn.Conv2d(in_channels, out_channels, 1)
        self.bn1 = _ConditionalNorm(in_channels, condition)
        self.bn2 = _ConditionalNorm(out_channels, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(self.up(F.relu(self.bn1(x, condition))))
        h = self.conv2(F.relu(self.bn2(h, condition)))
        # a 1 x 1 convolution and nearest-neighbour doubling commute; this order computes a quarter
        return h + F.interpolate(self.conv_sc(x), scale_factor=2)


class _Attention(nn.Module):
    """Self-attention (Zhang et al. 2019) with keys and values at half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.o = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2)  # (B, C/8, HW)
        key = F.max_pool2d(self.phi(x), 2).flatten(2)  # (B, C/8, HW/4)
        value = F.max_pool2d(self.g(x), 2).flatten(2)  # (B, C/2, HW/4)
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        return x + self.gamma * self.o((value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))


class _OutputNorm(nn.Module):
    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.stored_mean, self.stored_var, self.gain, self.bias, eps=_OUTPUT_EPSILON)


class Network(nn.Module):
    """z (B, D) -> images (B, 3, H, W) in [-1, 1]; modules carry the port's names, without spectral norms.

    Args:
        channels: Of the beginning and after each of the N blocks, length N + 1.
        attention: Blocks that attention follows.
        chunk: Size of a latent block; D = (N + 1) * chunk.
        embedding: (number of classes, size) of the class embedding, of which row 0 is used.
    """

    def __init__(self, channels: list[int], *, attention: set[int], chunk: int, embedding: tuple[int, int]) -> None:
        super().__init__()
        self.chunk = chunk
        self.shared = nn.Embedding(*embedding)
        self.linear = nn.Linear(chunk, 16 * channels[0])
        blocks = []
        for number, (before, after) in enumerate(itertools.pairwise(channels)):
            block: list[nn.Module] = [_Block(before, after, embedding[1] + chunk)]
            if number in attention:
                block.append(_Attention(after))
            blocks.append(nn.ModuleList(block))
        self.blocks: nn.ModuleList = nn.ModuleList(blocks)
        self.output_layer = nn.Sequential(
            _OutputNorm(channels[-1]), nn.ReLU(), nn.Conv2d(channels[-1], 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        first, *others = z.split(self.chunk, dim=1)
        x = self.linear(first).unflatten(1, (-1, 4, 4))
        embedding = self.shared.weight[:1].expand(len(z), -1)
        for block, part in zip(self.blocks, others, strict=True):
            residual, *attention = block.children()
            x = residual(x, torch.cat([embedding, part], dim=1))
            for layer in attention:
                x = layer(x)
        return self.output_layer(x)


class BigBiGan:
    """Unconditional images in [-1, 1]."""

    name = "bigbigan"
    default_std = 0.2  # the paper's strength for BigBiGAN
    licence = _LICENCE

    def __init__(self, state: dict[str, Tensor], *, source: str, prior: str) -> None:
        """``state``: the port's state dict, spectral norms and all."""
        self.network = _network(state, source=source).eval()
        self.network.requires_grad_(False)
        self.prior = prior
        self.latent_blocks = (self.network.chunk,) * (1 + len(self.network.blocks))
        self.latent_dim = sum(self.latent_blocks)
        side = 4 << len(self.network.blocks)
        self.image_shape = (3, side, side)
        self._fingerprint = fingerprint(state, {"name": self.name, "prior": prior})

    def fingerprint(self) -> str:
        return self._fingerprint

    def to(self, device: str | torch.device) -> "BigBiGan":
        self.network.to(device)
        return self

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents (B, D) -> float images (B, 3, H, W) in [-1, 1]."""
        return self.network(latents)

    def folded(self) -> "BigBiGan":
        """For rendering."""
        result = copy.copy(self)
        result.network = _folded(self.network)
        return result


def _folded(network: Network) -> Network:
    """A copy with batch norms and the biases before them as one multiply-add, and doubling as a part of ``conv1``."""
    result = copy.deepcopy(network)
    for block in result.blocks:
        residual: Any = next(block.children())
        before = residual.conv1.bias
        residual.up, residual.conv1 = nn.Identity(), doubling_conv(residual.conv1)
        residual.bn1 = _affine(residual.bn1, before=None)
        residual.bn2 = _affine(residual.bn2, before=before)
    channels_last(result)
    return result


def _affine(norm: _ConditionalNorm, *, before: Tensor | None) -> ConditionalAffine:
    mean, var = norm.stored_mean, norm.stored_var
    return ConditionalAffine(norm.gain, norm.bias, mean=mean, var=var, eps=_EPSILON, before=before)


def _network(state: Mapping[str, Tensor], *, source: str) -> Network:
    """Read the sizes off the shapes, then load strictly."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    blocks = [shapes[name] for name in (f"blocks.{i}.0.conv1.weight" for i in range(8)) if name in shapes]
    linear, embedding = shapes.get("linear.weight", ()), shapes.get("shared.weight", ())
    if not blocks or len(linear) != 2 or len(embedding) != 2 or any(len(shape) != 4 for shape in blocks):
        raise DataError(f"{source}: not a BigBiGAN generator; expected is the state dict BigBiGAN_x1.pth of the port")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn only to be replaced
        network = Network(
            [blocks[0][1], *(shape[0] for shape in blocks)],
            attention={i for i in range(len(blocks)) if f"blocks.{i}.1.theta.weight" in shapes},
            chunk=linear[1],
            embedding=(embedding[0], embedding[1]),
        )
    load_strictly(network, _without_spectral_norm(state, source=source), source=source)
    return network


def _without_spectral_norm(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Divide every weight that has a power-iteration vector ``u0`` by its greatest singular value, as estimated."""
    result = {}
    for name, tensor in state.items():
        if re.search(r"\.(u0|sv0)$", name):
            continue
        if name.endswith(".weight") and name != "shared.weight":
            u = state.get(name.removesuffix("weight") + "u0")
            if u is None or u.numel() != len(tensor):
                raise DataError(f"{source}: {name} has no fitting vector u0 of its spectral norm")
            matrix = tensor.float().flatten(1)
            v = F.normalize(u.float().view(1, -1) @ matrix, eps=_EPSILON)
            tensor = tensor / torch.linalg.vector_norm(v @ matrix.T)
        result[name] = tensor
    return result


def bigbigan(weights: Path | None = None, *, prior: str = "truncated-normal", config: str = "published") -> BigBiGan:
    """BigBiGAN's generator.

    Args:
        weights: ``BigBiGAN_x1.pth`` of the PyTorch port pytorch-pretrained-gans.
        prior: ``truncated-normal`` as in the paper's code, or ``normal`` as BigBiGAN was trained.
        config: ``published``, or ``tiny`` for a small network with random weights.
    """
    if prior not in PRIORS:
        raise DataError(f"generator bigbigan: prior={prior} is unknown; known: {', '.join(PRIORS)}")
    if config not in ("published", "tiny"):
        raise DataError(f"generator bigbigan: config={config} is unknown; known: published, tiny")
    if (weights is None) == (config == "published"):
        raise DataError(
            "generator bigbigan: name BigBiGAN_x1.pth of pytorch-pretrained-gans by --weights FILE, or try it without "
            "by --generator-arg config=tiny"
        )
    state = _random_state() if weights is None else load_tensors(weights)
    source = str(weights or config)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{source}: not a BigBiGAN generator; expected is the state dict BigBiGAN_x1.pth of the port")
    return BigBiGan(state, source=source, prior=prior)


def _random_state() -> dict[str, Tensor]:
    """Random weights of a small network: 32 px, latent of four blocks of 4."""
    with torch.random.fork_rng(devices=[]):
        network = Network([16, 16, 8, 4], attention={1}, chunk=4, embedding=(2, 8))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in [name for name in shapes if name.endswith(".weight") and name != "shared.weight"]:
        shapes[name.replace("weight", "u0")] = (1, shapes[name][0])
        shapes[name.replace("weight", "sv0")] = (1,)
    state = normal_tensors(shapes, seed=0)
    for name, tensor in state.items():
        if name.endswith(".weight"):
            tensor.div_(math.sqrt(tensor[0].numel()))
        elif name.endswith("stored_var"):
            tensor.abs_().add_(0.05)
        elif name.endswith(("bias", "stored_mean")):
            tensor.mul_(0.1)
    return state
