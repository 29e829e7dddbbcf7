"""Accuracy over the number of samples: three laws, which of them the points tell apart, and what they promise."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from genrep.evaluate.interval import Interval, spread

Floats = NDArray[np.float64]
Law = Literal["logarithmic", "power", "saturating"]

FORMULAS: dict[Law, str] = {
    "logarithmic": "a + b ln N",
    "power": "1 - b N^-c",
    "saturating": "a - b N^-c",
}
_NUM_PARAMETERS: dict[Law, int] = {"logarithmic": 2, "power": 2, "saturating": 3}
_EXPONENTS = np.arange(1, 1201) / 400  # 0.0025 to 3
POINT = 0.01  # of accuracy: the "next point"
FARTHEST = 10  # times the largest N tried: no extrapolation beyond is called supported
CERTAIN = 0.95  # of the Akaike weights of a law and its rival, what the law needs to be called identified
LIKELY = 0.05  # a law with less of all weights is left out of account
MISFIT = 0.01  # a law whose residuals are less likely than this does not describe the points


@dataclass(frozen=True)
class Fit:
    """A law through B curves.

    Attributes:
        level, factor, exponent: a, b, c of the formula, each (B,); where the law has none, a is 1 and c is 0.
        misfit: Sum of squared residuals in units of the noise (B,).
    """

    law: Law
    level: Floats
    factor: Floats
    exponent: Floats
    misfit: Floats

    def at(self, sizes: Floats) -> Floats:
        """Accuracy (B, M) at sizes (M,)."""
        level, factor, exponent = self.level[:, None], self.factor[:, None], self.exponent[:, None]
        if self.law == "logarithmic":
            return np.asarray(level + factor * np.log(sizes))
        return np.asarray(level - factor * sizes**-exponent)

    def size_for(self, accuracy: Floats) -> Floats:
        """Samples (B,) that an accuracy (B,) takes; inf where the law never reaches it."""
        with np.errstate(all="ignore"):
            if self.law == "logarithmic":
                size = np.exp((accuracy - self.level) / self.factor)
            else:
                size = ((self.level - accuracy) / self.factor) ** (-1 / self.exponent)
            reaches = (self.factor > 0) & (accuracy < self.level if self.law != "logarithmic" else True)
        return np.where(reaches & np.isfinite(size), size, np.inf)


@dataclass(frozen=True)
class Growth:
    """What the points of a curve say.

    Attributes:
        sizes, means: The points (P,).
        noise: Standard deviation of a point apart from what moves all points together, (P,).
        slope: Accuracy won by ten times the samples, and its 95 % interval.
        fits: Each law through the points.
        exponents: Of power and saturating: value and 95 % interval.
        weights: Akaike weight of each law.
        law: The one that the points identify; None if they do not.
        band_sizes, bands: Where, and the 95 % band of each law there, (2, M).
        next_size: Samples at which the best law is one point above its value at the largest size, and 95 % interval.
        supported: Whether that extrapolation is more than arithmetic; ``reason`` says why or why not.
    """

    sizes: Floats
    means: Floats
    noise: Floats
    slope: tuple[float, Interval]
    fits: dict[Law, Fit]
    exponents: dict[Law, tuple[float, Interval]]
    weights: dict[Law, float]
    law: Law | None
    band_sizes: Floats
    bands: dict[Law, Floats]
    next_size: tuple[float, Interval]
    supported: bool
    reason: str

    @property
    def flat(self) -> bool:
        """Whether the slope's interval holds 0."""
        low, high = self.slope[1]
        return low <= 0 <= high

    @property
    def best(self) -> Law:
        return _best(self.weights)

    def said(self) -> str:
        """One sentence or two."""
        value, (low, high) = self.slope
        slope = f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}) for ten times the samples"
        if self.flat:
            return f"flat within the interval: {slope}; law not identified."
        direction = "grows" if value > 0 else "falls"
        law = f"the law is {self.law}, {FORMULAS[self.law]}" if self.law else "law not identified"
        if self.law in self.exponents:
            exponent, (least, most) = self.exponents[self.law]
            law += f", c = {exponent:.2f} ({least:.2f} to {most:.2f})"
        if value < 0:
            return f"{direction}: {slope}; {law}."
        size, *ends = map(_count, (self.next_size[0], *self.next_size[1]))
        between = "" if ends == [size, size] else f" ({ends[0]} to {ends[1]})"
        asked = f"one more point would take {size} samples{between} by the best law"
        verdict = "supported" if self.supported else "not supported"
        return f"{direction}: {slope}; {law}; {asked}: {verdict}, {self.reason}."


def growth(sizes: Floats, means: Floats, draws: Floats) -> Growth:
    """Fit all laws to the points and to every resampling of them.

    Args:
        sizes: Numbers of samples (P,), P >= 2, growing.
        means: Accuracies (P,), fractions.
        draws: The same (B, P) with other seeds and test images.
    """
    centred = draws - draws.mean(1, keepdims=True)  # what moves all points together does not bend the curve
    noise = np.maximum(centred.std(0) * np.sqrt(len(sizes) / (len(sizes) - 1)), 1e-6)
    laws: tuple[Law, ...] = get_args(Law)
    fits = {law: fit(law, sizes, means[None], noise) for law in laws}
    resampled = {law: fit(law, sizes, draws, noise) for law in laws}
    akaike = {law: float(fits[law].misfit[0]) + 2 * _NUM_PARAMETERS[law] for law in laws}
    lowest = min(akaike.values())
    relative = {law: float(np.exp((lowest - akaike[law]) / 2)) for law in laws}
    weights = {law: relative[law] / sum(relative.values()) for law in laws}
    best = _best(weights)
    per_decade = np.log(10)
    slope = (
        float(fits["logarithmic"].factor[0] * per_decade),
        spread((resampled["logarithmic"].factor * per_decade).tolist()),
    )
    flat = slope[1][0] <= 0 <= slope[1][1]
    doubt = _doubt(weights, best, misfit=float(fits[best].misfit[0]), freedom=len(sizes) - _NUM_PARAMETERS[best])
    identified = best if not doubt and not flat else None
    largest = sizes[-1:]
    wanted = fits[best].at(largest)[:, 0] + POINT
    next_size = float(fits[best].size_for(wanted)[0])
    next_draws = resampled[best].size_for(resampled[best].at(largest)[:, 0] + POINT)
    low, high = (float(each) for each in np.quantile(next_draws, [0.025, 0.975], method="nearest"))
    others = [
        float(fits[law].size_for(fits[law].at(largest)[:, 0] + POINT)[0]) for law in laws if weights[law] > LIKELY
    ]
    supported, reason = _support(doubt, flat, slope[0], max(high, *others), float(largest[0]))
    band_sizes = np.geomspace(sizes[0], FARTHEST * sizes[-1], 60)
    return Growth(
        sizes=sizes,
        means=means,
        noise=noise,
        slope=slope,
        fits=fits,
        exponents={
            law: (float(fits[law].exponent[0]), spread(resampled[law].exponent.tolist()))
            for law in laws
            if law != "logarithmic"
        },
        weights=weights,
        law=identified,
        band_sizes=band_sizes,
        bands={law: np.quantile(resampled[law].at(band_sizes), [0.025, 0.975], axis=0) for law in laws},
        next_size=(next_size, (low, high)),
        supported=supported,
        reason=reason,
    )


def fit(law: Law, sizes: Floats, accuracies: Floats, noise: Floats) -> Fit:
    """Least squares in units of the noise (P,), of B curves (B, P) at once; exponents on a grid of 0.0025 to 3."""
    weights = noise**-2
    if law == "power":  # level 1; through the origin of x
        falling = sizes ** -_EXPONENTS[:, None]  # (E, P)
        errors = 1 - accuracies
        factors = (errors * weights) @ falling.T / (weights * falling**2).sum(1)  # (B, E)
        misfits = (weights * errors**2).sum(1, keepdims=True) - factors**2 * (weights * falling**2).sum(1)
        levels = np.ones_like(factors)
    else:  # a straight line over x
        x = np.log(sizes)[None] if law == "logarithmic" else sizes ** -_EXPONENTS[:, None]
        centres, mean = (weights * x).sum(1) / weights.sum(), (weights * accuracies).sum(1) / weights.sum()
        deviations, rest = x - centres[:, None], accuracies - mean[:, None]
        slopes = (rest * weights) @ deviations.T / (weights * deviations**2).sum(1)
        misfits = (weights * rest**2).sum(1, keepdims=True) - slopes**2 * (weights * deviations**2).sum(1)
        levels = mean[:, None] - slopes * centres
        factors = slopes if law == "logarithmic" else -slopes
    best = misfits.argmin(1)
    curves = np.arange(len(accuracies))
    exponent = np.zeros(len(best)) if law == "logarithmic" else _EXPONENTS[best]
    return Fit(law, levels[curves, best], factors[curves, best], exponent, np.maximum(misfits[curves, best], 0))


def _best(weights: dict[Law, float]) -> Law:
    """The law with the highest weight; saturating, which holds both others as limits, only if it is needed."""
    simple: Law = "logarithmic" if weights["logarithmic"] >= weights["power"] else "power"
    needed = weights["saturating"] >= CERTAIN * (weights["saturating"] + weights[simple])
    return "saturating" if needed else simple


def _rivals(law: Law) -> tuple[Law, ...]:
    """Those that must be unlikely for a law to be identified; what a simple law is a limit of is none."""
    if law == "saturating":
        return ("logarithmic", "power")
    return ("power",) if law == "logarithmic" else ("logarithmic",)


def _doubt(weights: dict[Law, float], best: Law, *, misfit: float, freedom: int) -> str:
    """Why the points do not identify the law with the highest weight; empty if they do."""
    if freedom < 2:
        return f"too few points to test a law of {_NUM_PARAMETERS[best]} parameters"
    if chi2.sf(misfit, freedom) <= MISFIT:
        return f"no law describes the points (the best, {best}, misses them by more than their noise)"
    if any(weights[best] < CERTAIN * (weights[best] + weights[law]) for law in _rivals(best)):
        likely = ", ".join(f"{law} {weight:.0%}" for law, weight in weights.items())
        return f"the points do not tell the laws apart ({likely})"
    return ""


def _support(doubt: str, flat: bool, slope: float, most: float, largest: float) -> tuple[bool, str]:
    if flat or slope < 0:
        return False, "the points do not grow"
    if doubt:
        return False, doubt
    if not most <= FARTHEST * largest:
        return False, f"that may lie beyond {FARTHEST} times the largest number tried"
    return True, f"within {FARTHEST} times the largest number tried"


def _count(size: float) -> str:
    return f"{size:,.0f}" if size < 1e12 else "more than 10^12"
