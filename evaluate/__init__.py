"""Checkpoint + real data -> numbers: frozen features, probes, floors, intervals."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrep.evaluate.data import open_data
    from genrep.evaluate.evaluation import evaluate
    from genrep.evaluate.knn import KnnProbe
    from genrep.evaluate.linear import LinearProbe

__all__ = ["KnnProbe", "LinearProbe", "evaluate", "open_data"]

_HOMES = {"KnnProbe": "knn", "LinearProbe": "linear", "evaluate": "evaluation", "open_data": "data"}


def __getattr__(name: str) -> Any:  # lazy: commands that only print must start at once
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
