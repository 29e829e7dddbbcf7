"""How far a number may be off."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(successes: int, trials: int) -> Interval:
    """95 % interval of a proportion, for drawing the test images anew.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, z2 = successes / trials, Z_95**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def sampling(shares: NDArray[np.float64]) -> Interval:
    """95 % interval of a mean over test images, for drawing them anew: normal, cut at 0 and 1.

    Args:
        shares: (N,), of each test image the share of fits that are right on it.
    """
    half = Z_95 * float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 1.0
    return max(0.0, float(shares.mean()) - half), min(1.0, float(shares.mean()) + half)


def spread(values: Sequence[float]) -> Interval:
    """Where the middle 95 % of draws lie: 2.5 % and 97.5 % points, linear between order statistics."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
