"""MDS, the format of MosaicML's streaming: one file a shard with the offsets of its samples, and an index of the files.

Layout (format version 2), all numbers little-endian: uint32 S; S+1 uint32 offsets into the file; a JSON text that
describes the columns; then the samples, each the uint32 sizes of its columns without a fixed size and then the columns.
Columns stand in the order of their names.
"""

import json
import struct
from typing import Any

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.shards.export import Progress, claim, finish, shards_of
from genrep.shards.location import Location
from genrep.shards.reader import ShardDataset

INDEX = "index.json"
_IMAGES = {"png": "png", "jpg": "jpeg", "webp": "bytes"}  # our formats -> MDS encodings; both decode by Pillow


def export_mds(dataset: ShardDataset, out: Location, *, progress: Progress | None = None) -> int:
    """Write a set as MDS; what an earlier run finished stays.

    Columns: ``anchor``, ``view1``, ... (the encoded images), ``index`` and ``label`` (int64), ``meta`` (JSON), and
    ``latents`` (float32 (1+K, D)) where there are any.

    Returns:
        Number of files, one a shard.

    Raises:
        DataError: If the folder holds other things, a shard is larger than MDS can address, or the set is damaged.
    """
    claim(dataset, out, kind="mds")
    width = dataset.latents(0).shape[1]
    columns = _columns(dataset, width)
    described = _description(columns)
    entries = []
    for number, positions in shards_of(dataset):
        path = out / f"shard.{number:05d}.mds"
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            content = _shard(dataset, positions, columns, described)
            atomic.write(path, content)
            size = len(content)
        raw = {"basename": path.name, "bytes": size, "hashes": {}}
        entries.append({**described, "raw_data": raw, "samples": len(positions), "zip_data": None})
        if progress:
            progress(positions.stop, len(dataset))
    finish(out, INDEX, {"version": 2, "shards": entries})
    return len(entries)


def _columns(dataset: ShardDataset, width: int) -> dict[str, tuple[str, int | None]]:
    """Name -> MDS encoding and fixed size, in order of the names."""
    image_format = dataset.recipe["image"]["format"]
    columns: dict[str, tuple[str, int | None]] = {
        member.partition(".")[0]: (_IMAGES[image_format], None) for member in dataset.member_names[:-3]
    }
    columns |= {"index": ("int", 8), "label": ("int", 8), "meta": ("json", None)}
    if width:
        rows = 1 + dataset.num_views
        columns["latents"] = (f"ndarray:float32:{rows},{width}", 4 * rows * width)
    return dict(sorted(columns.items()))


def _description(columns: dict[str, tuple[str, int | None]]) -> dict[str, Any]:
    return {
        "column_encodings": [encoding for encoding, _ in columns.values()],
        "column_names": list(columns),
        "column_sizes": [size for _, size in columns.values()],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": None,
        "version": 2,
    }


def _shard(
    dataset: ShardDataset, positions: range, columns: dict[str, tuple[str, int | None]], described: dict[str, Any]
) -> bytes:
    samples = [_sample(dataset, position, columns) for position in positions]
    header = json.dumps(described, sort_keys=True).encode()
    offsets = [4 + 4 * (len(samples) + 1) + len(header)]
    for sample in samples:
        offsets.append(offsets[-1] + len(sample))
    if offsets[-1] >= 2**32:
        raise DataError(
            f"{dataset.folder}: the {len(samples):,} samples from {positions.start} on have {offsets[-1]:,} bytes, "
            "more than a file of MDS can address: generate smaller shards"
        )
    return b"".join((struct.pack(f"<{len(offsets) + 1}I", len(samples), *offsets), header, *samples))


def _sample(dataset: ShardDataset, position: int, columns: dict[str, tuple[str, int | None]]) -> bytes:
    members = dataset.members(position)
    image_format = dataset.recipe["image"]["format"]
    values: dict[str, Any] = {
        "index": struct.pack("<q", dataset.index(position)),
        "label": struct.pack("<q", int(dataset.labels[position])),
        "meta": members["json"],
    }
    if "latents" in columns:
        values["latents"] = dataset.latents(position).tobytes()
    contents = [values[name] if name in values else members[f"{name}.{image_format}"] for name in columns]
    sizes = [len(content) for content, (_, fixed) in zip(contents, columns.values(), strict=True) if fixed is None]
    return b"".join((struct.pack(f"<{len(sizes)}I", *sizes), *contents))
