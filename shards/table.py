"""A shard's table: one row a sample beside the tar, so that labels, places and hashes need no pass over it."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError
from genrep.shards.location import Location

METADATA_KEY = b"genrep"
MAX_BYTES = 2**30  # of a table that is fetched
MAX_CELL_BYTES = 64  # on the average: a hash has 32
PARTS = ("keys", "labels", "offsets", "sizes", "digests", "columns")


@dataclass(frozen=True)
class ShardFacts:
    """What a table says of its shard as a whole.

    Attributes:
        tar_sha256: In hexadecimal digits.
        tar_bytes: Size of the tar.
        environment: Of the process that wrote it.
        licence: Under which the images stand, if the generator says so.
    """

    tar_sha256: str
    tar_bytes: int
    environment: Mapping[str, Any]
    licence: str | None = None


@dataclass(frozen=True)
class ShardTable:
    """The S samples of a shard. Mappings run over the members in archive order; what was not read is empty.

    Attributes:
        facts: Of the shard as a whole.
        keys: S keys.
        labels: int64 (S,).
        offsets: Member -> int64 (S,), where its bytes begin in the tar.
        sizes: Member -> int64 (S,), how many there are.
        digests: Member -> uint8 (S, 32), their sha256.
        columns: Further columns, such as ``view1.zoom`` -> float32 (S,).
    """

    facts: ShardFacts
    keys: Sequence[str] = ()
    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    offsets: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    sizes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    digests: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def table_bytes(table: ShardTable) -> bytes:
    """The table as a parquet file: the same bytes for the same values and version of pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"key": pa.array(table.keys, pa.string()), "label": pa.array(table.labels)}
    for member, digests in table.digests.items():
        buffers = [None, pa.py_buffer(np.ascontiguousarray(digests))]
        columns[f"sha256.{member}"] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(digests), buffers)
        columns[f"offset.{member}"] = pa.array(table.offsets[member])
        columns[f"size.{member}"] = pa.array(table.sizes[member])
    columns |= {name: pa.array(values, pa.float32()) for name, values in table.columns.items()}
    facts = json.dumps(asdict(table.facts), sort_keys=True).encode()
    content = io.BytesIO()
    pq.write_table(
        pa.table(columns, metadata={METADATA_KEY: facts}),
        content,
        # hashes do not compress; lying there plainly, they tie the number of rows to the size of the file
        compression={name: "none" if name.startswith("sha256.") else "zstd" for name in columns},
        use_dictionary=False,
        write_statistics=False,
    )
    return content.getvalue()


def read_table(
    path: Location, *, members: Sequence[str], num_samples: int, parts: Collection[str] = PARTS
) -> ShardTable:
    """Read a table, or the parts of it that are asked for.

    Args:
        members: What every sample of the set consists of, in archive order.
        num_samples: Rows that there must be, S.
        parts: Any of ``PARTS``.

    Raises:
        DataError: If the file is missing, or is no table of such a shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size = _size(path)
        with pq.ParquetFile(_source(path, size)) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
            expected = _schema(schema.names, members)
            if schema.names != list(expected) or schema.types != list(expected.values()):
                _refuse(path, f"its columns are not those of samples of {', '.join(members)}")
            if num_rows != num_samples or 32 * num_rows * len(members) > size:
                _refuse(path, f"it has {num_rows} rows in {size} bytes for {num_samples} samples")
            unpacked = _unpacked_bytes(file.metadata)
            if unpacked > (num_rows + 1024) * MAX_CELL_BYTES * len(expected):
                _refuse(path, f"its {num_rows} rows unpack to {unpacked:,} bytes")
            wanted = [name for name in expected if _part(name) in parts]
            # without threads: a reader has its own
            read = dict(zip(wanted, file.read(wanted, use_threads=False).columns, strict=True))
            facts = _facts(path, schema)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {_REMEDY}") from error
    except (pa.ArrowException, OSError) as error:
        _refuse(path, " ".join(str(error).split())[:200])
    if any(column.null_count for column in read.values()):
        _refuse(path, "it has empty cells")

    def by_member(kind: str) -> dict[str, Any]:
        return {member: _values(read[f"{kind}.{member}"]) for member in members if f"{kind}.{member}" in read}

    return ShardTable(
        facts=facts,
        keys=read["key"].to_pylist() if "key" in read else (),
        labels=_values(read["label"]) if "label" in read else np.empty(0, np.int64),
        offsets=by_member("offset"),
        sizes=by_member("size"),
        digests=by_member("sha256"),
        columns={name: _values(column) for name, column in read.items() if _part(name) == "columns"},
    )


def _unpacked_bytes(metadata: Any) -> int:
    """What the columns claim to become once they are unpacked: a long text packs to next to nothing."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return sum(group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns))


def read_facts(path: Location) -> ShardFacts:
    """Only what a table says of its shard as a whole.

    Raises:
        DataError: As ``read_table``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _facts(path, pq.read_schema(_source(path, _size(path))))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {_REMEDY}") from error
    except (pa.ArrowException, OSError) as error:
        _refuse(path, " ".join(str(error).split())[:200])


def _size(path: Location) -> int:
    """In bytes, of what is a file: opening a pipe would wait for its other end."""
    size = path.stat().st_size
    if not path.is_file():
        _refuse(path, "it is no file")
    return size


def _source(path: Location, size: int) -> Path | io.BytesIO:
    """What pyarrow can read: a file of this machine, or the bytes of another."""
    if isinstance(path, Path):
        return path
    if size > MAX_BYTES:
        _refuse(path, f"it has {size:,} bytes, more than {MAX_BYTES:,} are not fetched")
    with path.open() as file:
        return io.BytesIO(file.read(size))


_REMEDY = "get the set again, or remove this file and its tar and run the command that made the set"


def _refuse(path: Location, reason: str) -> NoReturn:
    raise DataError(f"{path} is not the table of a shard of this set ({reason}): {_REMEDY}")


def _part(name: str) -> str:
    """Which of ``PARTS`` a column belongs to."""
    ours = {"key": "keys", "label": "labels", "offset": "offsets", "size": "sizes", "sha256": "digests"}
    return ours.get(name.partition(".")[0], "columns")


def _schema(names: Sequence[str], members: Sequence[str]) -> dict[str, Any]:
    """The columns that must be there and those that may, with their types."""
    import pyarrow as pa

    expected = {"key": pa.string(), "label": pa.int64()}
    for member in members:
        expected |= {f"sha256.{member}": pa.binary(32), f"offset.{member}": pa.int64(), f"size.{member}": pa.int64()}
    return expected | {name: pa.float32() for name in names if _part(name) == "columns"}


def _facts(path: Location, schema: Any) -> ShardFacts:
    try:
        facts = ShardFacts(**json.loads(schema.metadata[METADATA_KEY]))
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        _refuse(path, f"its metadata cannot be used: {type(error).__name__}")
    if not (isinstance(facts.tar_sha256, str) and isinstance(facts.tar_bytes, int)):
        _refuse(path, "its metadata holds no hash and size of the tar")
    return facts


def _values(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    array = column.combine_chunks()
    if not pa.types.is_fixed_size_binary(array.type):
        # not to_numpy(), which imports pandas wherever it is installed
        values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
        return values[array.offset : array.offset + len(array)]
    digests = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, 32)
    return digests[array.offset : array.offset + len(array)]
