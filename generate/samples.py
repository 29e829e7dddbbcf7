"""From recipe and sample indices to all that is known of a sample before it is rendered."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.generate import views
from genrep.generate.latents import class_labels, noise_seeds, prior_latents
from genrep.generate.recipe import Recipe
from genrep.generate.walks import Walks

Latents = NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """B samples that are not rendered yet.

    Attributes:
        indices: Sample indices, int64 (B,).
        latents: float32 (B, V, D) of the V images that the recipe stores, in the space that is rendered.
        labels: int64 (B,), -1 without classes.
        strengths: One dict a view: direction -> coefficient (B,); empty where the view is not steered.
        noise_seeds: int64 (B, V).
    """

    indices: NDArray[np.int64]
    latents: Latents
    labels: NDArray[np.int64]
    strengths: tuple[dict[str, NDArray[np.float64]], ...]
    noise_seeds: NDArray[np.int64]

    def rows(self, rows: slice) -> "Drawn":
        """Some of the samples."""
        return Drawn(
            indices=self.indices[rows],
            latents=self.latents[rows],
            labels=self.labels[rows],
            strengths=tuple({name: values[rows] for name, values in view.items()} for view in self.strengths),
            noise_seeds=self.noise_seeds[rows],
        )


def draw_samples(
    recipe: Recipe,
    sample_indices: range,
    *,
    map_latents: Callable[[Latents, NDArray[np.int64]], Latents] | None = None,
) -> Drawn:
    """Draw latents, labels and strengths; every row depends on recipe and sample index alone.

    Args:
        map_latents: From z (B, D) and labels to w or w+ (B, D'); needed where the recipe renders there.
    """
    source, seed = recipe.generator, recipe.seed
    if (map_latents is None) != (source.latent_space == "z"):
        raise ValueError(f"the recipe renders in {source.latent_space}: map_latents is for w and w+, and needed there")
    indices = np.asarray(sample_indices, np.int64)
    labels = class_labels(seed, indices, recipe.chosen_classes)

    def from_prior(stream: str, view: int) -> Latents:
        latents = prior_latents(
            seed, stream, indices, view=view, dim=source.latent_dim, prior=source.prior, scale=source.prior_scale
        )
        return latents if map_latents is None else map_latents(latents, labels)

    anchors = from_prior("anchor", 0)
    rows, strengths = [anchors][recipe.image_numbers.start :], []
    for view, name in zip(recipe.view_numbers, recipe.views, strict=True):
        moved, coefficients = anchors, {}
        for move in views.moves_of(name):
            part = _part(move, source.blocks)
            before, moved = moved[:, part], moved.copy()
            if move.kind == "independent":
                moved[:, part] = from_prior("independent", view)[:, part]
                continue
            if move.kind == "steer":
                assert recipe.walks is not None
                coefficients = views.strengths(seed, indices, view=view, names=recipe.walks.names)
                directions = _directions(recipe.walks, anchors.shape[1])
                moved[:, part] = views.steered_walk(before, directions[:, part], coefficients)
                continue
            assert recipe.std is not None
            std = recipe.std * source.prior_scale
            noise = views.unit_noise(move.kind, seed, indices, view=view, dim=anchors.shape[1], prior=source.prior)
            if move.kind == "angular":
                moved[:, part] = views.angular_walk(before, noise[:, part], std=std)
            else:
                kept = math.sqrt(1 - recipe.std**2) if source.keeps_variance else 1.0
                moved[:, part] = views.gaussian_walk(before, noise[:, part], std=std, kept=kept)
        rows.append(moved)
        strengths.append(coefficients)
    return Drawn(
        indices=indices,
        latents=np.stack(rows, axis=1),
        labels=labels,
        strengths=tuple(strengths),
        noise_seeds=np.stack(
            [
                noise_seeds(seed, indices, view=number if recipe.render.fresh_noise else 0)
                for number in recipe.image_numbers
            ],
            axis=1,
        ),
    )


def _part(move: views.Move, blocks: Sequence[int]) -> slice | NDArray[np.int64]:
    """Where in a latent it moves, as an index."""
    if not move.where:
        return slice(None)
    return np.concatenate([np.arange(first, last + 1) for first, last in views.ranges_of(move.where, blocks)])


def _directions(walks: Walks, dim: int) -> NDArray[np.float32]:
    """Directions (W, dim); those of w, once a layer, where the recipe renders in w+."""
    return np.tile(walks.directions, (1, dim // walks.latent_dim))


def describe_samples(recipe: Recipe, drawn: Drawn) -> list[dict[str, Any]]:
    """The ``.json`` member of each sample: index, class name, and per view its kind and parameters."""
    columns = [_describe_view(recipe, name, drawn, view) for view, name in enumerate(recipe.views)]
    names = recipe.generator.class_names
    return [
        {"index": index, "class": names[label] if label >= 0 else None, "views": [column[row] for column in columns]}
        for row, (index, label) in enumerate(zip(drawn.indices.tolist(), drawn.labels.tolist(), strict=True))
    ]


def _describe_view(recipe: Recipe, name: str, drawn: Drawn, view: int) -> list[dict[str, Any]]:
    same: dict[str, Any] = {"kind": name}
    held = {move.kind: move.where for move in views.moves_of(name) if move.where}
    if held:  # first and last of each range
        blocks = recipe.generator.blocks
        same["coordinates"] = {kind: views.ranges_of(where, blocks) for kind, where in held.items()}
    if views.uses((name,), *views.KINDS_WITH_STD):
        same["std"] = recipe.std
        if recipe.generator.keeps_variance:
            same["keeps_variance"] = True
    strengths = drawn.strengths[view]
    if not strengths:
        return [same] * len(drawn.indices)
    rows = np.stack(list(strengths.values()), axis=1).tolist()
    return [{**same, "strengths": dict(zip(strengths, row, strict=True))} for row in rows]


def strength_columns(recipe: Recipe, drawn: Drawn) -> dict[str, NDArray[np.float32]]:
    """Table columns ``view<k>.<direction>``, float32 (B,), the first view of a set being 1."""
    return {
        f"view{view}.{direction}": values.astype(np.float32)
        for view, strengths in zip(recipe.view_numbers, drawn.strengths, strict=True)
        for direction, values in strengths.items()
    }
