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


NUM_DRAWS = 5  # rotation, scale, shift x, shift y, brightness


def jitter_images(images: Tensor, generator: torch.Generator, ranges: Jitter | None = None) -> Tensor:
    """Move, scale, turn and brighten each image by its own draw.

    Args:
        images: uint8 (B, H, W), black background.
        generator: Source of the draws.
        ranges: Defaults to the ranges the embedded generator was trained on.

    Returns:
        float32 (B, 1, H, W) in [-1, 1].
    """
    draws = torch.stack([torch.rand(len(images), generator=generator) for _ in range(NUM_DRAWS)], dim=1)
    return jittered_by(draws, images[:, None].float() / 255, ranges or Jitter())


def jittered_by(draws: Tensor, light: Tensor, ranges: Jitter) -> Tensor:
    """Jitter by given draws; differentiable in both.

    Args:
        draws: (B, 5) in [0, 1]: where in their ranges rotation, scale, shift x, shift y and brightness lie.
        light: (B, 1, H, W) in [0, 1].

    Returns:
        (B, 1, H, W) in [-1, 1].
    """
    height, width = light.shape[2:]
    log_scale = [math.log(bound) for bound in ranges.scale]
    lows = draws.new_tensor([-ranges.rotation, log_scale[0], -ranges.shift, -ranges.shift, ranges.brightness[0]])
    highs = draws.new_tensor([ranges.rotation, log_scale[1], ranges.shift, ranges.shift, ranges.brightness[1]])
    degrees, log, shift_x, shift_y, brightness = (lows + (highs - lows) * draws).unbind(dim=1)
    angle, scale = degrees * math.pi / 180, torch.exp(log)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    offset_x, offset_y = -2 * shift_x / width, -2 * shift_y / height  # output -> input, grid units
    rows = [cosine, sine, cosine * offset_x + sine * offset_y, -sine, cosine, cosine * offset_y - sine * offset_x]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(light.shape), align_corners=False)
    moved = F.grid_sample(light, grid, align_corners=False)
    return (moved * brightness[:, None, None, None]).clamp(0, 1) * 2 - 1
