"""Pixel transformations T_x: every sample of a batch with its own parameters, applied in one compiled pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.shards.philox import uniform
from genrep.train.config import PixelTransform
from genrep.train.philox import words

# the order of the colour steps is one of these rows: 0 brightness, 1 contrast, 2 saturation, 3 hue
COLOUR_ORDERS = np.array(list(permutations(range(4))), np.int8)

_TRIES = 10  # as torchvision: boxes drawn until one fits into the image
_WORDS = 2 * (2 * _TRIES + 2) + 1 + 6 + 1 + 1  # two boxes, flip, colour, grey, erase


@dataclass(frozen=True)
class Parameters:
    """What is done to each image of a batch of B.

    Attributes:
        boxes: int64 (B, 4), top, left, height, width of the crop in the source.
        resized: Height and width the box is resized to, of which the output is the part at ``offset``.
        offset: Top and left of the output in the resized box.
        flips: bool (B,), mirrored left to right.
        colour: bool (B,), whether the four colour steps are taken.
        orders: int8 (B, 4), a row of ``COLOUR_ORDERS``.
        factors: float32 (B, 4), of brightness, contrast and saturation (1: as it is) and the hue shift in turns (0).
        greys: bool (B,).
        erased: int64 (B, 4), top, left, height, width of the box of the output set to the mean colour; height 0: none.
    """

    boxes: NDArray[np.int64]
    resized: tuple[int, int]
    offset: tuple[int, int]
    flips: NDArray[np.bool_]
    colour: NDArray[np.bool_]
    orders: NDArray[np.int8]
    factors: NDArray[np.float32]
    greys: NDArray[np.bool_]
    erased: NDArray[np.int64]


def draw_parameters(
    transform: PixelTransform,
    samples: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    view: int,
    source: tuple[int, int],
    crop: int,
) -> Parameters:
    """Draw T_x of one view of B samples; row b depends on (seed, epoch, view, ``samples[b]``) and the sizes alone.

    Args:
        samples: Sample positions int64 (B,).
        source: Height and width of the images.
        crop: Side of the square output.

    Source: the draws of torchvision's RandomResizedCrop, ColorJitter, RandomGrayscale and RandomErasing.
    """
    chances = uniform(words(seed, "pixels", samples, epoch=epoch, view=view, count=_WORDS))
    crop_chances, erase_chances, rest = np.split(chances, [2 * _TRIES + 2, 2 * (2 * _TRIES + 2)], axis=1)
    boxes, fits = _boxes(crop_chances, source, scale=transform.scale, ratio=transform.ratio)
    boxes[~fits] = _central_box(source, transform.ratio)
    erased, fits = _boxes(erase_chances, (crop, crop), scale=transform.erase_scale, ratio=transform.erase_ratio)
    erased[~fits | (rest[:, 0] >= transform.erase_p)] = 0
    strengths = np.array([transform.brightness, transform.contrast, transform.saturation, transform.hue])
    lowest = np.maximum(np.array([1, 1, 1, 0]) - strengths, [0, 0, 0, -0.5])
    highest = np.array([1, 1, 1, 0]) + strengths
    return Parameters(
        boxes=boxes,
        resized=(crop, crop),
        offset=(0, 0),
        flips=rest[:, 1] < transform.flip_p,
        colour=rest[:, 2] < transform.colour_p,
        orders=COLOUR_ORDERS[(rest[:, 3] * len(COLOUR_ORDERS)).astype(np.int64)],
        factors=(lowest + rest[:, 4:8] * (highest - lowest)).astype(np.float32),
        greys=rest[:, 8] < transform.grey_p,
        erased=erased,
    )


def joined(parts: Sequence[Parameters]) -> Parameters:
    """The parameters of one batch after another, all of the same sizes."""
    if len(parts) == 1:
        return parts[0]
    names = ("boxes", "flips", "colour", "orders", "factors", "greys", "erased")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **arrays)


def centre_parameters(num_images: int, *, source: tuple[int, int], resize: int, crop: int) -> Parameters:
    """No T_x: the short side is resized to ``resize`` and the centre cropped, as when features are evaluated."""
    height, width = source
    short = min(source)
    # torchvision's Resize and CenterCrop round so
    resized = (int(resize * height / short), int(resize * width / short))
    offset = (round((resized[0] - crop) / 2), round((resized[1] - crop) / 2))
    nothing = np.zeros(num_images, bool)
    return Parameters(
        boxes=np.tile(np.array([0, 0, height, width], np.int64), (num_images, 1)),
        resized=resized,
        offset=offset,
        flips=nothing,
        colour=nothing,
        orders=np.tile(COLOUR_ORDERS[0], (num_images, 1)),
        factors=np.tile(np.array([1, 1, 1, 0], np.float32), (num_images, 1)),
        greys=nothing,
        erased=np.zeros((num_images, 4), np.int64),
    )


def transform_into(
    out: NDArray[np.float32],
    images: NDArray[np.uint8],
    parameters: Parameters,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> None:
    """Apply ``parameters`` to images uint8 (B, H, W, C) and normalise, into float32 (B, S, S, 3).

    One-channel images come out with three equal channels before normalising; saturation, hue and grey mean nothing
    for them and are skipped. Runs without the GIL.
    """
    from genrep.train.kernel import transform_batch  # compiled on first use

    transform_batch(
        out,
        images,
        parameters.boxes,
        *parameters.resized,
        *parameters.offset,
        parameters.flips,
        parameters.colour,
        parameters.orders,
        parameters.factors,
        parameters.greys,
        parameters.erased,
        np.array(mean, np.float32),
        1 / np.array(std, np.float32),
    )


def _boxes(
    chances: NDArray[np.float64], size: tuple[int, int], *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The first of ten boxes that fits, int64 (B, 4), and whether there was one, bool (B,).

    Area uniform in ``scale`` of the image's, width over height log-uniform in ``ratio``, place uniform.
    """
    height, width = size
    areas = height * width * (scale[0] + chances[:, :_TRIES] * (scale[1] - scale[0]))
    log_low, log_high = np.log(ratio)
    ratios = np.exp(log_low + chances[:, _TRIES : 2 * _TRIES] * (log_high - log_low))
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fit = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fit.argmax(axis=1)
    rows = np.arange(len(chances))
    box_height, box_width = heights[rows, first], widths[rows, first]
    top = np.floor(chances[:, -2] * (height - box_height + 1))
    left = np.floor(chances[:, -1] * (width - box_width + 1))
    return np.stack([top, left, box_height, box_width], axis=1).astype(np.int64), fit.any(axis=1)


def _central_box(size: tuple[int, int], ratio: tuple[float, float]) -> list[int]:
    """The largest central box of an allowed shape: what torchvision falls back to."""
    height, width = size
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    return [(height - box_height) // 2, (width - box_width) // 2, box_height, box_width]
