"""From random words to what generation draws: uniforms and normals, equal to the bit on every machine.

A word is a function of (seed, stream, sample, view, position) alone, so nothing has to be drawn in order and no
state is kept. Words become uniforms and normals by float64 operations that IEEE 754 rounds correctly
(+ - * / sqrt, and the exact frexp); libm's log and numpy's own distributions may differ between versions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from genrep.shards import philox
from genrep.shards.philox import uniform

Floats = NDArray[np.float64]

MAX_SEED = 2**64 - 1

_HALF = np.uint64(32)
_WORDS_AT_ONCE = 1 << 16  # the working arrays of a chunk stay in the second-level cache


def words(seed: int, stream: int, samples: NDArray[np.int64], *, view: int, count: int) -> NDArray[np.uint64]:
    """Random 32-bit words (B, count), held in uint64; row b depends on ``samples[b]``, not on its neighbours.

    Key (seed, stream), counter (sample, view, block of four words, the seed's upper half): a seed has 64 bits,
    a sample index 32.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must lie in 0..2**64-1, got {seed}")
    key = seed & 0xFFFFFFFF, stream
    return philox.words(key, samples, second=view, fourth=seed >> 32, count=count)


def draw(
    transform: Callable[[NDArray[np.uint64]], Floats],
    seed: int,
    stream: int,
    samples: NDArray[np.int64],
    *,
    view: int,
    count: int,
) -> Floats:
    """``transform`` of :func:`words`, float64 (B, count), worked through in chunks of rows."""
    result = np.empty((len(samples), count))
    rows = max(1, _WORDS_AT_ONCE // max(count, 1))
    for start in range(0, len(samples), rows):
        chunk = slice(start, start + rows)
        result[chunk] = transform(words(seed, stream, samples[chunk], view=view, count=count))
    return result


def symmetric_millionths(random_words: NDArray[np.uint64]) -> Floats:
    """Uniform on the multiples of 1e-6 in [-1, 1]: a table, a JSON text and the arithmetic hold the same number."""
    return ((random_words * np.uint64(2_000_001) >> _HALF).astype(np.float64) - 1e6) / 1e6


def normal(random_words: NDArray[np.uint64]) -> Floats:
    """Standard normals by the inverse distribution function; 32 bits a value reach 6.3 standard deviations."""
    return _normal_quantile(uniform(random_words) - 0.5)


def truncated_normal(random_words: NDArray[np.uint64]) -> Floats:
    """Standard normals cut at two standard deviations (so their own deviation is 0.8796)."""
    return _normal_quantile((uniform(random_words) - 0.5) * _MASS_WITHIN_TWO)


_MASS_WITHIN_TWO = 0.9544997361036416  # erf(sqrt 2)

# Wichura 1988, algorithm AS 241 (PPND16), relative error about 1e-16: numerator and denominator, highest power
# first, of the central region and of the tail. The third region begins below 1.4e-11; 2**-33 does not reach it.
_CENTRE = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
_TAIL = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)


def _normal_quantile(q: Floats) -> Floats:
    """The normal quantile of probability 1/2 + q, for 2**-33 <= 1/2 - |q|."""
    result = q * _ratio(0.180625 - q * q, _CENTRE)
    in_tail = np.abs(q) > 0.425
    tail = q[in_tail]
    distance = np.sqrt(-_log(0.5 - np.abs(tail))) - 1.6
    result[in_tail] = np.copysign(_ratio(distance, _TAIL), tail)
    return result


def _ratio(x: Floats, polynomials: tuple[tuple[float, ...], tuple[float, ...]]) -> Floats:
    return _polynomial(x, polynomials[0]) / _polynomial(x, polynomials[1])


def _polynomial(x: Floats, coefficients: Sequence[float]) -> Floats:
    """Horner's rule, one rounding an operation: separate array operations are never fused."""
    result = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        result += coefficient
        result *= x
    result += coefficients[-1]
    return result


_ATANH = [1 / (2 * k + 1) for k in range(11, -1, -1)]
_LOG_2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476


def _log(x: Floats) -> Floats:
    """Natural logarithm of positive normal numbers: x = m 2**e, ln m = 2 artanh((m - 1) / (m + 1))."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, mantissa * 2, mantissa)
    s = (mantissa - 1) / (mantissa + 1)
    return (exponent - low) * _LOG_2 + 2 * s * _polynomial(s * s, _ATANH)


def row_norms(rows: Floats) -> Floats:
    """Euclidean norms (B, 1) of (B, D), summed in one fixed order: numpy's own may follow the processor."""
    squares = rows * rows
    size = squares.shape[1]
    padded = 1 << (size - 1).bit_length()
    squares = np.pad(squares, ((0, 0), (0, padded - size)))
    while squares.shape[1] > 1:
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    return np.sqrt(squares)
