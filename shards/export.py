"""What every export shares: a folder that belongs to one set and one layout, filled file by file, its index last."""

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.shards.location import Location
from genrep.shards.manifest import json_bytes, manifest_bytes
from genrep.shards.reader import ShardDataset

FORMAT = "genrep-export/1"
SOURCE = "genrep.json"
Progress = Callable[[int, int], object]


def open_with_anchors(folder: Location) -> ShardDataset:
    """Open a set to export it; views without their anchors are refused like what is no set."""
    dataset = ShardDataset(folder)
    if not dataset.has_anchors:
        raise DataError(f"{folder} holds views that were added to another set: export that set")
    return dataset


def claim(dataset: ShardDataset, out: Location, *, kind: str, settings: Mapping[str, Any] | None = None) -> None:
    """Make a folder that says which set it holds in which layout, or see that it is this one.

    ``genrep.json`` in it names the sha256 of the set's manifest, so an export can be traced back.

    Raises:
        DataError: If the folder holds another export or other files, or cannot be written.
    """
    source = {
        "format": FORMAT,
        "kind": kind,
        "settings": dict(settings or {}),
        "manifest_sha256": sha256(manifest_bytes(dataset.manifest)).hexdigest(),
        "licence": dataset.manifest.licence,
        "recipe": dict(dataset.recipe),
    }
    path = out / SOURCE
    with atomic.reported(out):
        out.mkdir(parents=True, exist_ok=True)
        strangers = sorted(other.name for other in out.iterdir() if not other.name.startswith("."))
    if SOURCE not in strangers:
        if strangers:
            raise DataError(f"{out} holds {strangers[0]} and no {SOURCE}: choose a new or an empty folder")
        atomic.create(path, json_bytes(source))
    try:
        with path.open("rb") as file:
            found = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}): choose a new folder") from error
    if found != json.loads(json_bytes(source)):
        raise DataError(f"{out} holds another export, of another set or with other settings: choose a new folder")
    atomic.remove_stale(out)


def shards_of(dataset: ShardDataset) -> Iterator[tuple[int, range]]:
    """Number and positions of each of the set's shards; an export has one file a shard, or works by shards."""
    first = 0
    for number, count in enumerate(dataset.shard_counts):
        yield number, range(first, first + count)
        first += count


def finish(out: Location, name: str, index: Mapping[str, Any]) -> None:
    """Write what makes the export readable, last: its presence means finished."""
    atomic.write(out / name, json_bytes(index))
