"""Samples to bytes on disk and back, and the proof that they are whole.

``read(folder)`` yields samples in order, ``open(folder)`` is a dataset with random access.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrep.shards.errors import DataError
    from genrep.shards.reader import open, read
    from genrep.shards.sample import Sample

__all__ = ["DataError", "Sample", "open", "read"]

_HOME = {"DataError": "errors", "Sample": "sample", "open": "reader", "read": "reader"}


def __getattr__(name: str) -> Any:  # lazy: commands that only print must start at once
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
