"""A subset: a small file that names some samples of a set by their index ranges, and the set by its manifest's hash."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError
from genrep.shards.layout import FORMAT, MAX_SAMPLES, layout_of
from genrep.shards.location import Location
from genrep.shards.manifest import json_bytes, manifest_sha256, read_manifest, read_object, read_recipe

KIND = "subset"
_SHARDS = re.compile(r"shard-(?:(?P<one>[0-9]{6})|\{(?P<first>[0-9]{6})\.\.(?P<last>[0-9]{6})\})\.tar")


@dataclass(frozen=True)
class Subset:
    """Some samples of a set.

    Attributes:
        folder: Of the set.
        ranges: Of sample indices, in ascending order, none empty, none touching another.
    """

    folder: Location
    ranges: tuple[range, ...]

    @property
    def indices(self) -> NDArray[np.int64]:
        """Sample indices (N,), ascending."""
        return np.concatenate([np.arange(part.start, part.stop) for part in self.ranges])


def named(place: Location) -> Subset | None:
    """What is named of a set: a file of a subset, or shards as in ``DIR/shard-{000000..000009}.tar``.

    Returns:
        None for anything else: a whole set.

    Raises:
        DataError: If there is no such set, or it has not these shards; and as ``read_subset``.
    """
    match = _SHARDS.fullmatch(place.name)
    if match is None:
        return read_subset(place) if isinstance(place, Path) and place.is_file() else None
    first, last = int(match["first"] or match["one"]), int(match["last"] or match["one"])
    shards = layout_of(read_recipe(place.parent)).shards
    if not first <= last < len(shards):
        raise DataError(
            f"{place}: {place.parent} has the shards {shards[0].name} to {shards[-1].name}: name some of these"
        )
    return Subset(place.parent, (range(shards[first].first, shards[last].first + shards[last].count),))


def parse_ranges(text: str) -> tuple[range, ...]:
    """Sample indices by number and range, joined by commas, the last one included: ``"0-999,5000"``.

    Raises:
        DataError: If it is anything else.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        if match is None:
            raise DataError(f"{part!r:.40} is no range of samples: write them as 0-999,5000")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise DataError(f"the range {part.strip()} is empty: write the smaller number first")
        found.append(range(first, last + 1))
    return _merged(found)


def subset_bytes(folder: Location, ranges: Sequence[range], *, path: Path) -> bytes:
    """The file for these samples of a finished set, to lie at ``path``.

    Raises:
        DataError: If there is no such set, or it has not these samples.
    """
    if not isinstance(folder, Path):
        raise DataError(f"{folder} lies in a store, and a subset names its set by a path: fetch the set first")
    num_samples = read_manifest(folder).num_samples
    if ranges[-1].stop > num_samples:
        raise DataError(
            f"{folder} has the samples 0 to {num_samples - 1}, not {ranges[-1].stop - 1}: choose among these"
        )
    return json_bytes(
        {
            "format": FORMAT,
            "kind": KIND,
            "parent": Path(os.path.relpath(folder.resolve(), path.resolve().parent)).as_posix(),
            "parent_sha256": manifest_sha256(folder),
            "ranges": [{"first": part.start, "count": len(part)} for part in ranges],
        }
    )


def read_subset(path: Path) -> Subset:
    """Read a subset and see that its parent is the set it was made of.

    Raises:
        DataError: If the file is none of a subset, or its parent is missing or another one.
    """
    content = read_object(path, "name a folder of shards or a subset of one")
    try:
        if content["format"] != FORMAT or content["kind"] != KIND:
            raise DataError(f"{path} is no subset of a set: name a folder of shards, or a file of genrep-shards subset")
        parent = content["parent"]
        ranges = _merged([_range(entry) for entry in content["ranges"]])
        if not isinstance(parent, str) or re.search(r"^/|://|[\x00-\x1f]", parent):
            raise DataError(f"{path} names {parent!r:.80} as its parent, which is no relative path: make it again")
        folder = Path(os.path.normpath(path.resolve().parent / parent))
        expected = content["parent_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no usable subset ({type(error).__name__}: {error}): make it again") from error
    if manifest_sha256(folder) != expected:
        raise DataError(
            f"{path} is a subset of another set than {folder} is now, of the one whose manifest has the sha256 "
            f"{expected!s:.12}...: get that set, or make the subset again"
        )
    if ranges[-1].stop > read_manifest(folder).num_samples:
        raise DataError(f"{path} names sample {ranges[-1].stop - 1}, which {folder} has not: make it again")
    return Subset(folder, ranges)


def _range(entry: Any) -> range:
    first, count = entry["first"], entry["count"]
    if not (type(first) is int and type(count) is int and first >= 0 < count and first + count <= MAX_SAMPLES):
        raise ValueError(f"no range of samples: {entry!s:.60}")
    return range(first, first + count)


def _merged(ranges: Sequence[range]) -> tuple[range, ...]:
    """In ascending order, those that touch joined into one."""
    if not ranges:
        raise ValueError("no ranges")
    merged: list[range] = []
    for part in sorted(ranges, key=lambda part: part.start):
        if merged and part.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, part.stop))
        else:
            merged.append(part)
    return tuple(merged)
