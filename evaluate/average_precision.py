"""Average precision of a ranking, in the three ways that papers on VOC and COCO count it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PrecisionRecall:
    """Points of a precision-recall curve, recall rising; equal scores make one point, so their order does not matter.

    Attributes:
        hits: (K,), positives found up to here.
        precision: (K,), the largest of all points from here on: the interpolated curve.
        total: Positives there are, more than 0.
    """

    hits: NDArray[np.int64]
    precision: NDArray[np.float64]
    total: int

    def at_points(self, points: int) -> float:
        """Mean precision at ``points`` recalls from 0 to 1: 11 in VOC 2007, 101 in COCO.

        Source: Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge", section 4.2.
        """
        wanted = np.arange(points) * self.total  # in integers, so that recall 0.3 is reached by 3 of 10
        first = np.searchsorted(self.hits * (points - 1), wanted)
        return float(np.append(self.precision, 0.0)[first].mean())

    @property
    def area(self) -> float:
        """Under the interpolated curve, as in VOC from 2010 on."""
        return float((np.diff(self.hits, prepend=0) * self.precision).sum() / self.total)


@dataclass(frozen=True)
class Ranking:
    """Scored items, best first.

    Attributes:
        order: (N,), rows by falling score.
        ends: (K,), positions in ``order`` of the last item of each score.
        positive: bool (N,), in ``order``.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    positive: NDArray[np.bool_]

    def curve(self, *, counts: NDArray[np.int64] | None = None, total: int | None = None) -> PrecisionRecall:
        """Points of its precision-recall curve.

        Args:
            counts: (N,), how often each item is in the sample; once each if left out.
            total: Positives there are, if some have no score.
        """
        counts = np.ones(len(self.order), np.int64) if counts is None else counts[self.order]
        seen = np.cumsum(counts)[self.ends]
        hits = np.cumsum(counts * self.positive)[self.ends]
        precision = np.maximum.accumulate((hits / np.maximum(seen, 1))[::-1])[::-1]
        return PrecisionRecall(hits, precision, int(hits[-1]) if total is None else total)


def ranking(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Ranking:
    """Rank items (N,), N >= 1, by their scores."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return Ranking(order, ends, positive[order])
