"""Generators that never saw an image, after Baradad et al. 2021 (Learning to See by Looking at Noise).

The baseline for "no data": every image is a smooth function of its latents, so that nearby latents give views.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrep.generate.fingerprint import fingerprint
from genrep.generate.untrained import normal_tensors
from genrep.shards.errors import DataError

_LICENCE = "MIT (no weights)"

ABOUT = {
    f"procedural:{name}": {
        "needs": "nothing",
        "licence": _LICENCE,
        "latent": "512, normal",
        "resolution": "64 x 64; size=N",
        "source": "genrep, after Baradad et al. 2021",
    }
    for name in ("dead-leaves", "stylegan-oriented")
}


def _uniform(latents: Tensor) -> Tensor:
    """Standard normals -> uniforms in (0, 1), by the distribution function."""
    return 0.5 * torch.erfc(latents * -math.sqrt(0.5))


# ------------------------------------------------------------------------------------------------- dead leaves

_LEAVES = 64
_PARAMETERS = 8  # x, y, radius, aspect, angle, red, green, blue
_RADII = (0.06, 1.0)  # of the image's side


class DeadLeaves:
    """Opaque leaves of one colour each, ellipses and rounded rectangles by turns, small ones more often.

    The first leaf hides the others, the last is the background. Edges are soft over a pixel, so that images have a
    gradient in their latents.
    """

    name = "procedural:dead-leaves"
    default_std = 0.2
    licence = _LICENCE
    latent_dim = _LEAVES * _PARAMETERS

    def __init__(self, *, size: int) -> None:
        self.image_shape = (3, size, size)

    def fingerprint(self) -> str:
        return fingerprint({}, {"name": self.name, "version": 1, "shape": self.image_shape})

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents (B, D) -> float images (B, 3, H, W) in [-1, 1]."""
        size = self.image_shape[1]
        leaves = _uniform(latents).view(-1, _LEAVES, _PARAMETERS)
        x, y, radius, aspect, angle = leaves[:, :, :5, None, None].unbind(dim=2)  # each (B, leaf, 1, 1)
        radius = _radius(radius)
        grid = (torch.arange(size, device=latents.device) + 0.5) / size
        dx, dy = grid[None, :] - x, grid[:, None] - y
        cosine, sine = torch.cos(math.pi * angle), torch.sin(math.pi * angle)
        stretch = torch.exp2(aspect - 0.5)  # sides from 1 : 2 to 2 : 1
        u = ((dx * cosine + dy * sine) / (radius * stretch)).square()
        v = ((dy * cosine - dx * sine) / (radius / stretch)).square()
        ellipses = (u[:, ::2] + v[:, ::2] + 1e-9).sqrt()  # 1 on the edge
        rectangles = (u[:, 1::2] ** 4 + v[:, 1::2] ** 4 + 1e-9).sqrt().sqrt().sqrt()
        level = torch.stack([ellipses, rectangles], dim=2).flatten(1, 2)
        cover = torch.sigmoid(4 * size * radius * (1 - level))
        cover = torch.cat([cover[:, :-1], torch.ones_like(cover[:, -1:])], dim=1)
        hidden = F.pad(1 - cover[:, :-1], (0, 0, 0, 0, 1, 0), value=1.0).cumprod(dim=1)
        colours = 2 * leaves[:, :, 5:] - 1
        return torch.einsum("blhw,blc->bchw", cover * hidden, colours).clamp(-1, 1)


def _radius(uniform: Tensor) -> Tensor:
    """Radii of density r^-3 between the two ends: the law that makes dead leaves look alike at every scale."""
    low, high = (radius**-2 for radius in _RADII)
    return (low + uniform * (high - low)) ** -0.5


# ------------------------------------------------------------------------------------------- oriented StyleGAN

_NOISE_SIDE = 16  # the noise map has 16 x 16 cosine coefficients
_STYLE = 250
_COLOURS = 6
_CHANNELS = 32
# mean and deviation over images of the mean and of the deviation of each colour, in [0, 1]: those of natural images
_COLOUR_MEANS = ((0.483, 0.455, 0.401), (0.145, 0.142, 0.161))
_COLOUR_DEVIATIONS = ((0.219, 0.213, 0.213), (0.063, 0.062, 0.069))


class _OrientedLayer(nn.Module):
    """Modulated 3 x 3 convolution of oriented edges and lines, one for each input channel.

    All outputs share the filters and differ in sign and bias: so one filtered map is computed and copied.
    """

    filters: Tensor
    affine: Tensor
    signs: Tensor
    bias: Tensor

    def __init__(self, random: dict[str, Tensor], name: str) -> None:
        super().__init__()
        bank = _filter_bank()
        choice = (_uniform(random[f"{name}.choice"]) * len(bank)).long().clamp(max=len(bank) - 1)
        self.register_buffer("filters", bank[choice][None])
        self.register_buffer("affine", random[f"{name}.affine"] / math.sqrt(_STYLE))
        self.register_buffer("signs", random[f"{name}.signs"].sign()[:, None, None])
        self.register_buffer("bias", 0.4 * (_uniform(random[f"{name}.bias"]) - 0.5)[:, None, None])

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """``noise`` (B, 1, H, W); its strength, in (0, 0.3), is a part of the style."""
        parameters = style @ self.affine.T
        scale, strength = 1 + parameters[:, :-1, None, None], 0.3 * torch.sigmoid(parameters[:, -1:, None, None])
        x = F.conv2d(F.pad(x * scale, (1, 1, 1, 1), mode="replicate"), self.filters)
        size = (self.filters.square().sum(dim=(2, 3))[..., None, None] * scale.square()).sum(dim=1, keepdim=True)
        return F.relu(self.signs * x * torch.rsqrt(size + 1e-8) + strength * noise + self.bias) * math.sqrt(2)


class _OrientedNetwork(nn.Module):
    """StyleGAN2's synthesis with random weights: noise coefficients and style -> raw images (B, 3, H, W)."""

    const: Tensor
    pink: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        sides = [1 << power for power in range(2, size.bit_length())]
        shapes: dict[str, tuple[int, ...]] = {"const": (1, _CHANNELS, 4, 4)}
        for side in sides:
            shapes[f"rgb{side}"] = (3 * _CHANNELS, _STYLE)
            for number in (0, 1):
                layer = f"layer{side}.{number}"
                shapes.update({f"{layer}.{part}": (_CHANNELS,) for part in ("choice", "signs", "bias")})
                shapes[f"{layer}.affine"] = (_CHANNELS + 1, _STYLE)
        random = normal_tensors(shapes, seed=0)
        self.register_buffer("const", random["const"])
        self.register_buffer("pink", _pink_basis(size))
        self.layers: Any = nn.ModuleList(_OrientedLayer(random, f"layer{side}.{n}") for side in sides for n in (0, 1))
        for side in sides:
            self.register_buffer(f"rgb{side}", random[f"rgb{side}"] / math.sqrt(_CHANNELS * _STYLE))
        self.sides = sides

    def forward(self, coefficients: Tensor, style: Tensor) -> Tensor:
        noise = (coefficients @ self.pink).view(-1, 1, self.sides[-1], self.sides[-1])
        style = F.leaky_relu(style, 0.2) * math.sqrt(2)
        x, image = self.const.expand(len(style), -1, -1, -1), None
        for number, side in enumerate(self.sides):
            if image is not None:
                x, image = (F.interpolate(map_, scale_factor=2, mode="bilinear") for map_ in (x, image))
            at_side = F.adaptive_avg_pool2d(noise, side)
            for layer in self.layers[2 * number : 2 * number + 2]:
                x = layer(x, style, at_side)
            mix = (style @ self.get_buffer(f"rgb{side}").T).view(-1, 3, _CHANNELS)
            rgb = torch.einsum("bco,bohw->bchw", mix, x)
            image = rgb if image is None else image + rgb
        assert image is not None
        return image


def _filter_bank() -> Tensor:
    """(17, 3, 3): edges and lines in eight orientations, all of mean zero, and a single pixel."""
    y, x = torch.meshgrid(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0), indexing="ij")
    bank = []
    for step in range(8):
        angle = math.pi * step / 8
        distance = math.cos(angle) * x + math.sin(angle) * y
        bank.append(distance.clamp(-1, 1))
        bank.append(1 - 2 * distance.abs().clamp(max=1))
    pixel = torch.zeros(3, 3)
    pixel[1, 1] = 1
    return torch.stack([*(kernel - kernel.mean() for kernel in bank), pixel])


def _pink_basis(size: int) -> Tensor:
    """(256, size * size): cosine waves of amplitude 1 / frequency; standard normals make maps of variance 1 of them."""
    frequencies = torch.arange(_NOISE_SIDE)[:, None]
    waves = torch.cos(math.pi / size * frequencies * (torch.arange(size) + 0.5)[None])
    amplitude = torch.hypot(frequencies.float(), frequencies.T.float())
    amplitude[0, 0] = math.inf  # no constant part
    basis = torch.einsum("uv,uy,vx->uvyx", 1 / amplitude, waves, waves)
    return (basis / basis.square().sum(dim=(0, 1)).mean().sqrt()).reshape(_NOISE_SIDE**2, size * size)


class StyleGanOriented:
    """An untrained StyleGAN2 whose filters are oriented edges and lines, with the colours of natural images.

    Latents are 256 coefficients of the noise map, 250 of the style, 6 of mean and deviation of the colours. Published
    images draw the network anew too; here it is one and the same, and an image follows from its latents.
    """

    name = "procedural:stylegan-oriented"
    default_std = 0.2
    licence = _LICENCE
    latent_dim = _NOISE_SIDE**2 + _STYLE + _COLOURS

    def __init__(self, *, size: int) -> None:
        self.network = _OrientedNetwork(size).eval()
        self.image_shape = (3, size, size)

    def fingerprint(self) -> str:
        return fingerprint({}, {"name": self.name, "version": 1, "shape": self.image_shape})

    def to(self, device: str | torch.device) -> "StyleGanOriented":
        self.network.to(device)
        return self

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents (B, D) -> float images (B, 3, H, W) in [-1, 1]."""
        coefficients, style, colours = latents.split([_NOISE_SIDE**2, _STYLE, _COLOURS], dim=1)
        raw = self.network(coefficients, style)
        centred = raw - raw.mean(dim=(2, 3), keepdim=True)
        unit = centred * torch.rsqrt(centred.square().mean(dim=(2, 3), keepdim=True) + 1e-6)
        means, deviations = (
            torch.tensor(base, device=latents.device) + torch.tensor(spread, device=latents.device) * part
            for (base, spread), part in zip((_COLOUR_MEANS, _COLOUR_DEVIATIONS), colours.chunk(2, dim=1), strict=True)
        )
        return (2 * (unit * deviations[:, :, None, None] + means[:, :, None, None]) - 1).clamp(-1, 1)


# --------------------------------------------------------------------------------------------------- factories


def dead_leaves(weights: Path | None = None, *, size: str = "64") -> DeadLeaves:
    """Dead leaves; ``size``: side of the images in pixels."""
    return DeadLeaves(size=_side("dead-leaves", weights, size))


def stylegan_oriented(weights: Path | None = None, *, size: str = "64") -> StyleGanOriented:
    """Untrained StyleGAN2 with oriented filters; ``size``: side of the images in pixels, a power of two."""
    side = _side("stylegan-oriented", weights, size)
    if side & (side - 1):
        raise DataError(f"generator procedural:stylegan-oriented: size={size} must be a power of two")
    return StyleGanOriented(size=side)


def _side(name: str, weights: Path | None, text: str) -> int:
    if weights is not None:
        raise DataError(f"generator procedural:{name} has no weights; leave --weights out")
    if not (text.isdecimal() and 16 <= int(text) <= 1024):
        raise DataError(f"generator procedural:{name}: size={text} must be a number of pixels from 16 to 1024")
    return int(text)
