"""How far two pictures of the same thing lie apart."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrep.shards.codec import Buffer, decode_into


@dataclass
class PixelDifference:
    """Summed up over pairs of images.

    Attributes:
        num_images: Pairs compared.
        num_other_images: Pairs of which any pixel differs.
        num_values: Grey or colour values compared.
        num_other_values: Values that differ.
        largest: The largest difference of two values, in grey levels.
    """

    num_images: int = 0
    num_other_images: int = 0
    num_values: int = 0
    num_other_values: int = 0
    largest: int = 0

    def __str__(self) -> str:
        share = self.num_other_values / max(self.num_values, 1)
        return f"{share:.4%} of the pixel values differ, by {self.largest} grey levels at most"

    def add(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
        """Count two images of one shape in; returns their own largest difference."""
        apart = np.abs(first.astype(np.int16) - second)
        largest, num_other = int(apart.max()), int(np.count_nonzero(apart))
        self.num_images += 1
        self.num_other_images += num_other > 0
        self.num_values += apart.size
        self.num_other_values += num_other
        self.largest = max(self.largest, largest)
        return largest

    def add_equal(self, shape: tuple[int, int, int]) -> None:
        """Count two equal images of (H, W, C) in."""
        self.num_images += 1
        self.num_values += math.prod(shape)


def decoded(first: Buffer, second: Buffer, *, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], ...]:
    """Two encoded images of (H, W, C) as arrays.

    Raises:
        DataError: If one of them is damaged or has another shape.
    """
    images = np.empty((2, *shape), np.uint8)
    decode_into(first, images[0])
    decode_into(second, images[1])
    return images[0], images[1]
