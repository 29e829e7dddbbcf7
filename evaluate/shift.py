"""Real images under random affine maps: a shift of the distribution that raw pixels do not survive."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from genrep.evaluate.data import Source
from genrep.evaluate.draws import words
from genrep.shards.philox import uniform

Shift = Literal["none", "affine"]
SHIFTS: tuple[Shift, ...] = ("none", "affine")

MAX_ANGLE = 30.0  # degrees, to both sides
SCALE = (0.6, 1.0)
MAX_SHIFT = 0.1  # of a side, to both sides


@dataclass(frozen=True)
class AffineMaps:
    """How the content of each image moves: flip, then scale, then rotation about the centre, then shift; (B,) each.

    Attributes:
        angle: Degrees, clockwise as seen on the screen.
        scale: Size after over size before.
        shift_x, shift_y: To the right and down, as a part of width and height.
        flip: Whether left and right change places.
    """

    angle: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift_x: NDArray[np.float64]
    shift_y: NDArray[np.float64]
    flip: NDArray[np.bool_]

    def __getitem__(self, rows: slice) -> "AffineMaps":
        return AffineMaps(self.angle[rows], self.scale[rows], self.shift_x[rows], self.shift_y[rows], self.flip[rows])


def draw_affine_maps(source: Source, positions: NDArray[np.int64]) -> AffineMaps:
    """The map of each image, all parameters uniform; it depends on the image's split and position alone.

    It does not depend on the seed of an evaluation: the shifted images are one fixed data set.
    """
    u = uniform(words("shift", positions, source=("train", "test").index(source), count=5)).T
    return AffineMaps(
        angle=MAX_ANGLE * (2 * u[0] - 1),
        scale=SCALE[0] + (SCALE[1] - SCALE[0]) * u[1],
        shift_x=MAX_SHIFT * (2 * u[2] - 1),
        shift_y=MAX_SHIFT * (2 * u[3] - 1),
        flip=u[4] < 0.5,
    )


def move(images: torch.Tensor, maps: AffineMaps) -> torch.Tensor:
    """Images (B, C, H, W) moved by their maps: bilinear, zero (black) where nothing was."""
    height, width = images.shape[2:]
    angle = np.deg2rad(maps.angle)
    mirror = np.where(maps.flip, -1.0, 1.0)
    # from output to input: the inverse of shift, rotation, scale and flip, first in pixels from the centre
    inverse = np.empty((len(angle), 2, 2))
    inverse[:, 0, 0] = mirror * np.cos(angle)
    inverse[:, 0, 1] = mirror * np.sin(angle)
    inverse[:, 1, 0] = -np.sin(angle)
    inverse[:, 1, 1] = np.cos(angle)
    inverse /= maps.scale[:, None, None]
    # then in torch's coordinates, where either side runs from -1 to 1
    inverse[:, 0, 1] *= height / width
    inverse[:, 1, 0] *= width / height
    offset = -inverse @ (2 * np.stack([maps.shift_x, maps.shift_y], 1)[..., None])
    theta = torch.from_numpy(np.concatenate([inverse, offset], 2)).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
