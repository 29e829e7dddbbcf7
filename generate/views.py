"""Views of a sample: what a view may be called, and the walks from an anchor's latent to a view's."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from genrep.generate import philox
from genrep.generate.latents import PRIORS, STREAMS, Indices
from genrep.shards.errors import DataError

Latents = NDArray[np.float32]

KINDS = ("gauss", "angular", "uniform", "independent", "steer")
KINDS_WITH_STD = ("gauss", "angular", "uniform")


def parse_views(text: str, num_views: int | None = None) -> tuple[str, ...]:
    """One entry a view: ``"gauss,gauss+steer"`` -> ("gauss", "gauss+steer"), ``"none"`` -> ().

    ``num_views`` repeats a single entry; beside a list it must agree with its length.
    """
    if text.strip() == "none":
        if num_views:
            raise DataError(f"views: none and {num_views} views contradict each other; name a kind")
        return ()
    views = tuple("+".join(kind.strip() for kind in view.split("+")) for view in text.split(","))
    for view in views:
        kinds_of(view)
    if num_views is not None and len(views) == 1:
        views *= num_views
    if num_views is not None and len(views) != num_views:
        raise DataError(f"views: {text} names {len(views)} views, {num_views} are asked for; leave one of the two out")
    return views


def kinds_of(view: str) -> tuple[str, ...]:
    """The kinds that make up a view, in the order they are applied; refuses what is no view."""
    kinds = tuple(view.split("+"))
    for kind in kinds:
        if kind not in KINDS:
            raise DataError(
                f"views: {kind!r:.40} is no kind of view; known: none, {', '.join(KINDS)}, joined by , or +"
            )
    if len(set(kinds)) < len(kinds):
        raise DataError(f"views: {view} names a kind twice; each may be applied once")
    if "independent" in kinds[1:]:
        raise DataError(f"views: in {view}, independent would undo what stands before it; put it first")
    return kinds


def uses(views: tuple[str, ...], *wanted: str) -> bool:
    """Whether any view is made with one of these kinds."""
    return any(kind in wanted for view in views for kind in kinds_of(view))


def unit_noise(
    kind: str, seed: int, sample_indices: Indices, *, view: int, dim: int, prior: str
) -> NDArray[np.float64]:
    """Noise (B, D) of nominal standard deviation 1 for a kind with a strength.

    ``"uniform"`` fills the box of side 2 sqrt(3), whose deviation is 1; the others follow the prior's
    shape, so that with a truncated prior the real deviation is 0.8796 (as in the paper's data sets).
    """
    transform = _box if kind == "uniform" else PRIORS[prior]
    return philox.draw(transform, seed, STREAMS[kind], np.asarray(sample_indices, np.int64), view=view, count=dim)


def strengths(
    seed: int, sample_indices: Indices, *, view: int, names: tuple[str, ...]
) -> dict[str, NDArray[np.float64]]:
    """A coefficient (B,) in [-1, 1] for each direction, multiples of 1e-6: one draw per sample, view and direction."""
    samples = np.asarray(sample_indices, np.int64)
    values = philox.draw(philox.symmetric_millionths, seed, STREAMS["steer"], samples, view=view, count=len(names))
    return dict(zip(names, values.T, strict=True))


def gaussian_walk(latents: Latents, noise: NDArray[np.float64], *, std: float) -> Latents:
    """``z + std * noise``; the paper's T_z, and also the uniform walk, whose noise fills a box."""
    return (latents + std * noise).astype(np.float32)


def angular_walk(latents: Latents, noise: NDArray[np.float64], *, std: float) -> Latents:
    """``z + std * noise``, each row brought back to the norm it had."""
    moved = latents + std * noise
    return (moved * (philox.row_norms(latents.astype(np.float64)) / philox.row_norms(moved))).astype(np.float32)


def steered_walk(
    latents: Latents, directions: NDArray[np.float32], coefficients: Mapping[str, NDArray[np.float64]]
) -> Latents:
    """``z + sum over e of c_e * direction_e``; directions (W, D) in the order of the coefficients.

    Added up one direction at a time, since a matrix product's order of summation follows the processor.
    """
    moved = latents.astype(np.float64)
    for direction, strength in zip(directions, coefficients.values(), strict=True):
        moved += strength[:, None] * direction.astype(np.float64)
    return moved.astype(np.float32)


def _box(random_words: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (philox.uniform(random_words) - 0.5) * (2 * 1.7320508075688772)
