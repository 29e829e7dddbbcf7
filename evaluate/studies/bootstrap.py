"""How far a number may be off when other seeds and other test images had been drawn; differences paired by both."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.interval import Interval, spread

Floats = NDArray[np.float64]

DRAWS = 2000
_SEED = 0  # of the resampling; the same resamples for every number, so that numbers of one report fit together


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and test images, or a difference of two.

    Attributes:
        interval: 95 %, over seeds and test images together; of a single seed over test images alone.
        by_seed: The mean over test images of each seed.
        test_error: Half the 95 % interval that test images alone would give.
    """

    mean: float
    interval: Interval
    by_seed: tuple[float, ...]
    test_error: float

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside the interval."""
        low, high = self.interval
        return low > 0 or high < 0


def estimate(right: Sequence[Floats]) -> Estimate:
    """Of the shares (N,) of each seed; for a difference, of first minus second by seed.

    Test images are drawn anew with replacement, the same for all seeds. Of S seeds S - 1 are drawn, so that the spread
    is that of a mean of S seeds (Rao and Wu 1988, "Resampling inference with complex survey data", section 2).
    """
    values = np.stack(right)
    means = resampled(right)
    deviation = values.mean(0).std() / np.sqrt(values.shape[1])
    return Estimate(
        mean=float(values.mean()),
        interval=spread(means.tolist()),
        by_seed=tuple(values.mean(1).tolist()),
        test_error=float(1.96 * deviation),
    )


def resampled(right: Sequence[Floats]) -> Floats:
    """Means (DRAWS,) over resampled seeds and test images of shares (N,) a seed."""
    values = np.stack(right).astype(np.float32)
    of_images = values @ _image_weights(values.shape[1])  # (S, DRAWS)
    return np.asarray((of_images * _seed_weights(len(values))).sum(0), np.float64)


def of_images(right: Sequence[Floats]) -> Floats:
    """Means (DRAWS,) over resampled test images; all seeds stay."""
    return np.asarray(np.stack(right).mean(0).astype(np.float32) @ _image_weights(len(right[0])), np.float64)


@cache
def _image_weights(num_images: int) -> NDArray[np.float32]:
    """How much of the mean each image (num_images, DRAWS) is."""
    rng = np.random.Generator(np.random.PCG64([_SEED, 1, num_images]))
    drawn = [np.bincount(rng.integers(0, num_images, num_images), minlength=num_images) for _ in range(DRAWS)]
    return np.asarray(np.stack(drawn, 1) / num_images, np.float32)


@cache
def _seed_weights(num_seeds: int) -> NDArray[np.float32]:
    rng = np.random.Generator(np.random.PCG64([_SEED, 2, num_seeds]))
    kept = max(num_seeds - 1, 1)
    drawn = rng.integers(0, num_seeds, (DRAWS, kept))
    return np.asarray((drawn[..., None] == np.arange(num_seeds)).mean(1).T, np.float32)
