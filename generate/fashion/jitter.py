"""Geometric and brightness jitter: a generator can be steered only as far as its training data moved."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Jitter:
    """Ranges of one uniform draw per image."""

    shift: float = 3.0  # pixels, each axis, +-
    scale: tuple[float, float] = (0.8, 1.1)  # uniform in the logarithm
    rotation: float = 15.0  # degrees, +-
    brightness: tuple[float, float] = (0.7, 1.2)  # factor, clipped at white

    def to_json(self) -> dict:
        return asdict(self)


def jitter_images(images: Tensor, generator: torch.Generator, ranges: Jitter | None = None) -> Tensor:
    """Move, scale, turn and brighten each image by its own draw.

    Args:
        images: uint8 (B, H, W), black background.
        generator: Source of the draws.
        ranges: Defaults to the ranges the embedded generator was trained on.

    Returns:
        float32 (B, 1, H, W) in [-1, 1].
    """
    ranges = ranges or Jitter()
    count, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle = uniform(-ranges.rotation, ranges.rotation) * math.pi / 180
    scale = torch.exp(uniform(*(math.log(bound) for bound in ranges.scale)))
    shift_x, shift_y = (uniform(-ranges.shift, ranges.shift) for _ in range(2))
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    offset_x, offset_y = -2 * shift_x / width, -2 * shift_y / height  # output -> input, grid units
    rows = [cosine, sine, cosine * offset_x + sine * offset_y, -sine, cosine, cosine * offset_y - sine * offset_x]
    theta = torch.stack(rows, dim=1).view(count, 2, 3)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    moved = F.grid_sample(images[:, None].float() / 255, grid, align_corners=False)
    bright = moved * uniform(*ranges.brightness)[:, None, None, None]
    return bright.clamp(0, 1) * 2 - 1
