"""Pixel edits that walks imitate: zoom, shift, rotation, brightness, colour and the jitter of SimCLR, with masks.

A geometric edit is a projective map of the plane, a photometric one a function of the pixel values. Several are
composed before anything is sampled: values first, then the product of the maps, in one bilinear lookup. So the mask
of what the source image cannot tell holds for all of them at once, and values never leave [-1, 1].
(In the published code each edit restarted from a full mask, and colour left the range.)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from genrep.shards.errors import DataError

SMALL_SIDE = 64  # up to here the full strengths are those the embedded generator's training data moved by


class Edited(NamedTuple):
    """Images (B, C, H, W) in [-1, 1]; mask (B, 1, H, W) of 0 and 1, 1 where the source image tells the pixel."""

    images: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Edit:
    """One pixel edit; strength 0 changes nothing.

    Attributes:
        unit: Of its strength.
        small: Usual full strength up to 64 px; for a shift a share of the side.
        large: The same above 64 px: the paper's ranges, and those of its colour jitter.
        channels: How many the images need at least.
        map: Strengths (B,), side -> (B, 3, 3): where in the source an output pixel is looked up, in pixels from the
            centre, x to the right and y down. None for a photometric edit.
        tint: Images, strengths (B, 1, 1, 1) -> images, not yet clipped. None for a geometric edit.
    """

    name: str
    unit: str
    small: float
    large: float
    channels: int = 1
    map: Callable[[Tensor, float], Tensor] | None = None
    tint: Callable[[Tensor, Tensor], Tensor] | None = None

    def full_strength(self, height: int, width: int) -> float:
        """The strength at coefficient 1 unless another is asked for, in the edit's unit."""
        strength = self.small if min(height, width) <= SMALL_SIDE else self.large
        if self.unit != "px":
            return strength
        return strength * (width if self.name == "shift_x" else height)

    def apply(self, images: Tensor, strength: Tensor | float) -> Edited:
        """Images (B, C, H, W) in [-1, 1], one strength or one an image (B,); differentiable in both."""
        return apply_edits(images, {self.name: strength})


def apply_edits(images: Tensor, strengths: Mapping[str, Tensor | float]) -> Edited:
    """Apply several edits to each image, always in the order of :data:`EDITS`.

    Args:
        images: Float (B, C, H, W) in [-1, 1].
        strengths: Name of the edit -> one strength, or one an image (B,).
    """
    unknown = sorted(set(strengths) - set(EDITS))
    if unknown:
        raise DataError(f"{unknown[0]!r} is no edit; known: {', '.join(EDITS)}")
    count, channels, height, width = images.shape
    lookup = torch.eye(3, dtype=images.dtype, device=images.device).expand(count, 3, 3)
    warped = False
    for edit in EDITS.values():
        if edit.name not in strengths:
            continue
        if channels < edit.channels:
            raise DataError(
                f"edit {edit.name} needs {edit.channels} channels, the images have {channels}; leave it out"
            )
        strength = torch.as_tensor(strengths[edit.name], dtype=images.dtype, device=images.device).expand(count)
        if edit.tint is not None:
            images = edit.tint(images, strength[:, None, None, None]).clamp(-1, 1)
        else:
            assert edit.map is not None
            lookup, warped = lookup @ edit.map(strength, math.hypot(height, width)), True
    if not warped:
        return Edited(images, torch.ones_like(images[:, :1]))
    return _warp(images, lookup)


def _warp(images: Tensor, lookup: Tensor) -> Edited:
    """Bilinear lookup; a pixel is masked out unless all that it is mixed from lies inside the source."""
    height, width = images.shape[2:]
    half_y, half_x = (height - 1) / 2, (width - 1) / 2
    y, x = torch.meshgrid(
        torch.linspace(-half_y, half_y, height, dtype=images.dtype, device=images.device),
        torch.linspace(-half_x, half_x, width, dtype=images.dtype, device=images.device),
        indexing="ij",
    )
    points = torch.stack([x, y, torch.ones_like(x)]).view(3, -1)
    x, y, depth = (lookup @ points).view(-1, 3, height, width).unbind(dim=1)
    before = depth > 1e-3  # what a turned plane shows behind the viewer is no picture
    depth = depth.clamp_min(1e-3)
    x, y = x / depth, y / depth
    tolerance = 1e-3  # of a pixel
    mask = before & (x.abs() <= half_x + tolerance) & (y.abs() <= half_y + tolerance)
    grid = torch.stack([x / half_x, y / half_y], dim=-1)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return Edited(moved.clamp(-1, 1), mask[:, None].to(images.dtype))


def _matrix(strength: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    cells = [torch.as_tensor(cell, dtype=strength.dtype, device=strength.device) for row in rows for cell in row]
    return torch.stack([cell.expand_as(strength) for cell in cells], dim=1).view(-1, 3, 3)


def _zoom(strength: Tensor, diagonal: float) -> Tensor:
    inverse = torch.exp(-strength)
    return _matrix(strength, [[inverse, 0, 0], [0, inverse, 0], [0, 0, 1]])


def _shift_x(strength: Tensor, diagonal: float) -> Tensor:
    return _matrix(strength, [[1, 0, -strength], [0, 1, 0], [0, 0, 1]])


def _shift_y(strength: Tensor, diagonal: float) -> Tensor:
    return _matrix(strength, [[1, 0, 0], [0, 1, -strength], [0, 0, 1]])


def _rotation(strength: Tensor, diagonal: float) -> Tensor:
    cosine, sine = torch.cos(torch.deg2rad(strength)), torch.sin(torch.deg2rad(strength))
    return _matrix(strength, [[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def _rotation_3d(strength: Tensor, diagonal: float) -> Tensor:
    """The picture turned about its vertical middle line, seen from one diagonal away; the inverse of

    ``x' = f x cos / (f + x sin), y' = f y / (f + x sin)``.
    """
    cosine, sine = torch.cos(torch.deg2rad(strength)), torch.sin(torch.deg2rad(strength))
    return _matrix(strength, [[1, 0, 0], [0, cosine, 0], [-sine / diagonal, 0, cosine]])


def _grey(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 (B, 1, H, W), as torchvision's colour jitter takes it."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True) + (weights.sum() - 1)  # the weights' sum is 0.9999, on [0, 1]


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return (1 + strength) * (images + 1) - 1


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return mean + (1 + strength) * (images - mean)


def _saturation(images: Tensor, strength: Tensor) -> Tensor:
    grey = _grey(images)
    return grey + (1 + strength) * (images - grey)


def _hue(images: Tensor, strength: Tensor) -> Tensor:
    """Turns the colours about the grey axis: a third of a turn makes red green, green blue and blue red."""
    angle = 2 * math.pi * strength[:, 0]  # (B, 1, 1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    ones = torch.full((3, 3), 1 / 3, dtype=images.dtype, device=images.device)
    eye = torch.eye(3, dtype=images.dtype, device=images.device)
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=images.dtype, device=images.device) / math.sqrt(3)
    turn = cosine * eye + sine * cross + (1 - cosine) * ones  # Rodrigues' formula
    return torch.einsum("bij,bjhw->bihw", turn, images)


def _channel(number: int) -> Callable[[Tensor, Tensor], Tensor]:
    def add(images: Tensor, strength: Tensor) -> Tensor:
        chosen = torch.arange(3, device=images.device).view(1, 3, 1, 1) == number
        return images + strength * chosen

    return add


# in the order they are applied, the paper's: values, then 3-D rotation, rotation, zoom, shift
EDITS: dict[str, Edit] = {
    edit.name: edit
    for edit in (
        Edit("brightness", "relative", 0.3, 0.4, tint=_brightness),
        Edit("contrast", "relative", 0.4, 0.4, tint=_contrast),
        Edit("saturation", "relative", 0.4, 0.4, channels=3, tint=_saturation),
        Edit("hue", "turns", 0.1, 0.1, channels=3, tint=_hue),
        Edit("red", "of [-1, 1]", 0.5, 0.5, channels=3, tint=_channel(0)),
        Edit("green", "of [-1, 1]", 0.5, 0.5, channels=3, tint=_channel(1)),
        Edit("blue", "of [-1, 1]", 0.5, 0.5, channels=3, tint=_channel(2)),
        Edit("rotation_3d", "degrees", 20.0, 60.0, map=_rotation_3d),
        Edit("rotation", "degrees", 15.0, 30.0, map=_rotation),
        Edit("zoom", "ln scale", 0.2, math.log(4), map=_zoom),
        Edit("shift_x", "px", 1 / 7, 100 / 256, map=_shift_x),
        Edit("shift_y", "px", 1 / 7, 100 / 256, map=_shift_y),
    )
}

# names that stand for several edits
GROUPS: dict[str, tuple[str, ...]] = {
    "shift": ("shift_x", "shift_y"),
    "colour": ("red", "green", "blue"),
    "jitter": ("brightness", "contrast", "saturation"),
    "crop": ("zoom", "shift_x", "shift_y"),  # a crop brought back to full size is the three together
}


def default_edits(channels: int) -> tuple[str, ...]:
    """The paper's edits; for grey images brightness stands for colour and 3-D rotation is left out."""
    if channels == 1:
        return ("zoom", "shift_x", "shift_y", "rotation", "brightness")
    return ("zoom", "shift_x", "shift_y", "rotation", "rotation_3d", "red", "green", "blue")


def parse_edits(text: str) -> tuple[str, ...]:
    """``"zoom,colour"`` -> ("zoom", "red", "green", "blue"); each once, in the order written."""
    names: dict[str, None] = {}
    for part in (part.strip() for part in text.split(",")):
        if part not in EDITS and part not in GROUPS:
            raise DataError(f"{part!r} is no edit; known: {', '.join(EDITS)}; groups: {', '.join(GROUPS)}")
        names.update(dict.fromkeys(GROUPS.get(part, (part,))))
    return tuple(names)
