"""From recipe and sample indices to all that is known of a sample before it is rendered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.generate import views
from genrep.generate.latents import class_labels, noise_seeds, prior_latents
from genrep.generate.recipe import Recipe

Latents = NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """B samples that are not rendered yet.

    Attributes:
        indices: Sample indices, int64 (B,).
        latents: float32 (B, 1+K, D), row 0 the anchor's, in the space that is rendered.
        labels: int64 (B,), -1 without classes.
        strengths: One dict a view: direction -> coefficient (B,); empty where the view is not steered.
        noise_seeds: int64 (B, 1+K).
    """

    indices: NDArray[np.int64]
    latents: Latents
    labels: NDArray[np.int64]
    strengths: tuple[dict[str, NDArray[np.float64]], ...]
    noise_seeds: NDArray[np.int64]


def draw_samples(
    recipe: Recipe,
    sample_indices: range,
    *,
    map_latents: Callable[[Latents, NDArray[np.int64]], Latents] | None = None,
) -> Drawn:
    """Draw latents, labels and strengths; every row depends on recipe and sample index alone.

    Args:
        map_latents: From z (B, D) and labels to w (B, D'); needed where the recipe renders in w.
    """
    source, seed = recipe.generator, recipe.seed
    if (map_latents is None) != (source.latent_space == "z"):
        raise ValueError(f"the recipe renders in {source.latent_space}: map_latents is for w alone, and needed there")
    indices = np.asarray(sample_indices, np.int64)
    labels = class_labels(seed, indices, recipe.chosen_classes)

    def from_prior(stream: str, view: int) -> Latents:
        latents = prior_latents(
            seed, stream, indices, view=view, dim=source.latent_dim, prior=source.prior, scale=source.prior_scale
        )
        return latents if map_latents is None else map_latents(latents, labels)

    anchors = from_prior("anchor", 0)
    rows, strengths = [anchors], []
    for view, name in enumerate(recipe.views, start=1):
        moved, coefficients = anchors, {}
        for kind in views.kinds_of(name):
            if kind == "independent":
                moved = from_prior("independent", view)
            elif kind == "steer":
                assert recipe.walks is not None
                coefficients = views.strengths(seed, indices, view=view, names=recipe.walks.names)
                moved = views.steered_walk(moved, recipe.walks.directions, coefficients)
            else:
                assert recipe.std is not None
                walk = views.angular_walk if kind == "angular" else views.gaussian_walk
                noise = views.unit_noise(kind, seed, indices, view=view, dim=anchors.shape[1], prior=source.prior)
                moved = walk(moved, noise, std=recipe.std * source.prior_scale)
        rows.append(moved)
        strengths.append(coefficients)
    return Drawn(
        indices=indices,
        latents=np.stack(rows, axis=1),
        labels=labels,
        strengths=tuple(strengths),
        noise_seeds=np.stack(
            [noise_seeds(seed, indices, view=view if recipe.render.fresh_noise else 0) for view in range(len(rows))],
            axis=1,
        ),
    )


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
    if views.uses((name,), *views.KINDS_WITH_STD):
        same["std"] = recipe.std
    strengths = drawn.strengths[view]
    if not strengths:
        return [same] * len(drawn.indices)
    rows = np.stack(list(strengths.values()), axis=1).tolist()
    return [{**same, "strengths": dict(zip(strengths, row, strict=True))} for row in rows]


def strength_columns(drawn: Drawn) -> dict[str, NDArray[np.float32]]:
    """Table columns ``view<k>.<direction>``, float32 (B,), the first view being 1."""
    return {
        f"view{view}.{direction}": values.astype(np.float32)
        for view, strengths in enumerate(drawn.strengths, start=1)
        for direction, values in strengths.items()
    }
