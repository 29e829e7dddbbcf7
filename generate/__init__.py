"""(seed, sample index, recipe) -> samples: generators, latents, views, walks, rendering."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrep.generate.defaults import make_recipe
    from genrep.generate.generation import generate
    from genrep.generate.generators import load_generator
    from genrep.generate.recipe import Recipe

__all__ = ["Recipe", "generate", "load_generator", "make_recipe"]

_HOMES = {"Recipe": "recipe", "generate": "generation", "load_generator": "generators", "make_recipe": "defaults"}


def __getattr__(name: str) -> Any:
    """The public names, imported at first use: commands start fast."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
