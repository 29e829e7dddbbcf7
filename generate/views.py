"""Views of a sample: what a view may be called, and the walks from an anchor's latent to a view's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrep.generate import philox
from genrep.generate.latents import PRIORS, STREAMS, Indices
from genrep.shards.errors import DataError

Latents = NDArray[np.float32]

KINDS = ("gauss", "angular", "uniform", "independent", "steer")
KINDS_WITH_STD = ("gauss", "angular", "uniform")

_WHERE = re.compile(r"(c?)(\d{1,7}(?:-\d{1,7})?(?:/\d{1,7}(?:-\d{1,7})?)*)")


@dataclass(frozen=True)
class Move:
    """One of the moves that make up a view: its kind, and which part of the latent moves (empty: all of it)."""

    kind: str
    where: str = ""


def parse_views(text: str, num_views: int | None = None) -> tuple[str, ...]:
    """One entry a view: ``"gauss,gauss+steer"`` -> ("gauss", "gauss+steer"), ``"none"`` -> ().

    A kind may be held to a part of the latent: ``gauss@0-1/4`` moves the blocks 0, 1 and 4 of it (of w+: the
    layers), ``gauss@c0-39`` the coordinates 0 to 39. ``num_views`` repeats a single entry; beside a list it must
    agree with its length.
    """
    if text.strip() == "none":
        if num_views:
            raise DataError(f"views: none and {num_views} views contradict each other; name a kind")
        return ()
    views = tuple("+".join(kind.strip() for kind in view.split("+")) for view in text.split(","))
    for view in views:
        moves_of(view)
    if num_views is not None and len(views) == 1:
        views *= num_views
    if num_views is not None and len(views) != num_views:
        raise DataError(f"views: {text} names {len(views)} views, {num_views} are asked for; leave one of the two out")
    return views


def moves_of(view: str) -> tuple[Move, ...]:
    """The moves that make up a view, in the order they are applied; refuses what is no view."""
    moves = []
    for part in view.split("+"):
        kind, at, where = part.partition("@")
        if kind not in KINDS:
            raise DataError(
                f"views: {kind!r:.40} is no kind of view; known: none, {', '.join(KINDS)}, joined by , or +"
            )
        if at and not _WHERE.fullmatch(where):
            raise DataError(
                f"views: in {part!r:.80}, what follows @ must be blocks such as 0-1/4, or coordinates such as c0-39"
            )
        moves.append(Move(kind, where))
    kinds = [move.kind for move in moves]
    if len(set(kinds)) < len(kinds):
        raise DataError(f"views: {view} names a kind twice; each may be applied once")
    if "independent" in kinds[1:]:
        raise DataError(f"views: in {view}, independent would undo what stands before it; put it first")
    return tuple(moves)


def ranges_of(where: str, blocks: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The coordinates that ``where`` names, as (first, last) in ascending order; ``blocks``: sizes of all blocks."""
    match = _WHERE.fullmatch(where)
    assert match is not None  # moves_of has seen it
    starts = [0]
    for size in blocks:
        starts.append(starts[-1] + size)
    known, what = (starts[-1], "coordinates") if match[1] else (len(blocks), "blocks")
    ranges: list[tuple[int, int]] = []
    for span in match[2].split("/"):
        first, _, last = span.partition("-")
        low, high = int(first), int(last or first)
        if not low <= high < known or (ranges and low <= ranges[-1][1]):
            one = f" (all {starts[-1]} coordinates; name coordinates as c0-{starts[-1] - 1})" if known == 1 else ""
            raise DataError(
                f"views: @{where} must name {what} of the latent in ascending order, from 0 to {known - 1}{one}"
            )
        ranges.append((low, high))
    return tuple(ranges) if match[1] else tuple((starts[low], starts[high + 1] - 1) for low, high in ranges)


def uses(views: tuple[str, ...], *wanted: str) -> bool:
    """Whether any view is made with one of these kinds."""
    return any(move.kind in wanted for view in views for move in moves_of(view))


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


def gaussian_walk(latents: Latents, noise: NDArray[np.float64], *, std: float, kept: float = 1.0) -> Latents:
    """``kept * z + std * noise``; the paper's T_z, and also the uniform walk, whose noise fills a box.

    With ``kept`` = sqrt(1 - std^2) the view has the variance of its anchor, as the noise of a diffusion model must.
    """
    return (kept * latents.astype(np.float64) + std * noise).astype(np.float32)


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
