"""T_x of a whole batch in torch operations, for GPUs: what the compiled pass of ``kernel.py`` computes."""

from collections.abc import Callable

import numpy as np
import torch

from genrep.train.augment import Parameters

_GREY = (0.2989, 0.587, 0.114)


def transformed(
    images: torch.Tensor,
    parameters: Parameters,
    *,
    crop: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> torch.Tensor:
    """Images uint8 (B, H, W, C), C 1 or 3, as normalised float32 (B, 3, S, S), S = ``crop``, on the same device.

    The parameters stay where they are drawn, on the CPU, so that no step has to wait for the device.
    """
    channels = images.shape[3]
    planes = _resampled(images.permute(0, 3, 1, 2).float() / 255, parameters, crop)
    steps: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [_brightness, _contrast, _saturation, _hue]
    neutral = (1, 1, 1, 0)
    for place in range(4):
        for step, change in enumerate(steps[: 4 if channels == 3 else 2]):
            factors = parameters.factors[:, step]
            chosen = parameters.colour & (parameters.orders[:, place] == step) & (factors != neutral[step])
            _change(planes, chosen, factors, change)
    if channels == 3:
        _change(planes, parameters.greys, np.zeros(len(planes), np.float32), _saturation)
    planes = planes.expand(-1, 3, -1, -1)
    offset, scale = (planes.new_tensor(values)[:, None, None] for values in (mean, std))
    return ((planes - offset) / scale).masked_fill(_erased(parameters, crop, planes.device), 0)


def _change(
    planes: torch.Tensor,
    chosen: np.ndarray,
    factors: np.ndarray,
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """Apply ``change`` to the chosen images, each with its factor."""
    rows = np.flatnonzero(chosen)
    if len(rows):
        there = torch.from_numpy(rows).to(planes.device)
        factor = torch.from_numpy(factors[rows]).to(planes.device)[:, None, None, None]
        planes[there] = change(planes[there], factor)


def _resampled(planes: torch.Tensor, parameters: Parameters, side: int) -> torch.Tensor:
    """Each box to ``resized``, of it the square at ``offset``, mirrored where asked: two products of matrices."""
    boxes = torch.from_numpy(parameters.boxes).to(planes.device)
    flips = torch.from_numpy(parameters.flips).to(planes.device)[:, None, None]
    (height, width), (top, left) = parameters.resized, parameters.offset
    down = _weights(boxes[:, 0], boxes[:, 2], planes.shape[2], target=height, offset=top, side=side)
    across = _weights(boxes[:, 1], boxes[:, 3], planes.shape[3], target=width, offset=left, side=side)
    across = torch.where(flips, across.flip(1), across)
    return down[:, None] @ planes @ across[:, None].mT


def _weights(
    first: torch.Tensor, length: torch.Tensor, size: int, *, target: int, offset: int, side: int
) -> torch.Tensor:
    """What each of ``side`` output pixels takes of each of ``size`` source pixels, float32 (B, side, size).

    Bilinear with antialiasing: a triangle as wide as a source pixel, or as a target pixel where that is wider.
    """
    scale = (length.double() / target)[:, None, None]
    reach = scale.clamp(min=1)
    centres = (torch.arange(side, device=first.device) + offset + 0.5)[None, :, None] * scale
    places = torch.arange(size, device=first.device) - first[:, None]  # in the box
    inside = (places >= 0) & (places < length[:, None])
    weights = (1 - ((places + 0.5)[:, None, :] - centres).abs() / reach).clamp(min=0) * inside[:, None, :]
    return (weights / weights.sum(2, keepdim=True)).float()


def _erased(parameters: Parameters, side: int, device: torch.device) -> torch.Tensor:
    """bool (B, 1, side, side)."""
    top, left, height, width = torch.from_numpy(parameters.erased).to(device)[:, :, None].unbind(1)
    place = torch.arange(side, device=device)
    down, across = (place >= top) & (place < top + height), (place >= left) & (place < left + width)
    return (down[:, :, None] & across[:, None, :])[:, None]


def _grey(planes: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S)."""
    if planes.shape[1] == 1:
        return planes
    return (planes * planes.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)


def _blend(planes: torch.Tensor, other: torch.Tensor | float, factor: torch.Tensor) -> torch.Tensor:
    return (factor * planes + (1 - factor) * other).clamp(0, 1)


def _brightness(planes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(planes, 0.0, factor)


def _contrast(planes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(planes, _grey(planes).mean((2, 3), keepdim=True), factor)


def _saturation(planes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(planes, _grey(planes), factor)


def _hue(planes: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Through HSV: the hue of each pixel moves by ``turns`` of the colour circle."""
    red, green, blue = planes.unbind(1)
    value = planes.amax(1)
    chroma = value - planes.amin(1)
    scale = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    hue = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, 2 + (blue - red) / scale, 4 + (red - green) / scale),
    )
    sixths = (hue + 6 * turns[:, 0])[:, None] + planes.new_tensor([5, 3, 1])[:, None, None]
    sixths = sixths - 6 * torch.floor(sixths / 6)
    below = torch.minimum(sixths, 4 - sixths).clamp(0, 1)  # how far a channel lies below the value, over the chroma
    return value[:, None] - chroma[:, None] * below
