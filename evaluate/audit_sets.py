"""Small sets for an audit, one for each strength of the views; genrep.generate is loaded by name, when called."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from genrep.shards.location import Location


def generate_sets(
    generator_name: str,
    stds: Sequence[float | None],
    out: Path,
    *,
    views: str = "gauss",
    num_samples: int = 1000,
    seed: int = 0,
    weights: Path | None = None,
    arguments: Mapping[str, str] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Path]:
    """Generate a set for each strength, with the same anchors; what is there already is kept.

    Args:
        stds: None is the generator's own; of views that have no strength it is the only one.
        out: Folder of the sets.

    Returns:
        Name -> folder, in the order of ``stds``.

    Raises:
        DataError: If the generator or its views cannot be had, or a folder holds a set of other settings.
    """
    part = import_module("genrep.generate")
    kinds = import_module("genrep.generate.views").parse_views(views)
    generator = part.load_generator(generator_name, weights=weights, arguments=arguments)
    recipes = [part.make_recipe(generator, num_samples=num_samples, views=kinds, std=std, seed=seed) for std in stds]
    sets = {}
    for number, recipe in enumerate(recipes):
        name = f"sigma {recipe.std:g}" if recipe.std is not None else views
        folder = out / name.replace(" ", "-")

        def show(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(recipes) * total)

        part.generate(recipe, folder, generator=generator, device=device, progress=show)
        sets[name] = folder
    return sets


def named(folders: Sequence[Location]) -> dict[str, Location]:
    """Sets that are there, by the names of their folders; by their paths where names are equal."""
    names = [folder.name for folder in folders]
    return {
        name if names.count(name) == 1 else str(folder): folder for name, folder in zip(names, folders, strict=True)
    }
