"""FFCV's files (``.beton``, version 2), written and read without FFCV: fields, their places, pages of data.

A file is a header, a description of each field, an entry a sample with the fields' values or places, pages that hold
the data of whole samples, and a table of all places with their sizes (``ffcv/types.py``, ``ffcv/writer.py``).
"""

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError

Kind = Literal["int", "raw", "jpg", "array"]

MIN_PAGE = 1 << 23  # FFCV's own default; a power of two
MAX_PAGE = 1 << 31

_VERSION = 2
_HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("table", "<u8")],
    align=True,
)
_DESCRIPTION = np.dtype([("kind", "u1"), ("name", "S16"), ("arguments", "u1", 1024)])
_TABLE_ROW = np.dtype([("sample", "<u8"), ("place", "<u8"), ("size", "<u8")])
_INT, _IMAGE, _ARRAY = 1, 2, 4
_MODES = {"jpg": 0, "raw": 1}
_IMAGE_ENTRY = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("place", "<u8")])
_ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("length", "<u8")])


@dataclass(frozen=True)
class Field:
    """A field of every sample.

    Attributes:
        name: At most 16 letters.
        kind: ``int``; ``raw`` or ``jpg``, an RGB image; ``array``.
        shape: (H, W, 3) of an image, that of an array; () of an integer.
        dtype: Of an array.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...] = ()
    dtype: str = "|u1"

    @property
    def num_bytes(self) -> int:
        """Of the data of a sample; of ``jpg`` at most about so many."""
        return 0 if self.kind == "int" else int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def _entry(self) -> np.dtype:
        return np.dtype("<i8") if self.kind == "int" else _IMAGE_ENTRY if self.kind in _MODES else np.dtype("<u8")

    def _described(self) -> tuple[int, bytes, NDArray[np.uint8]]:
        arguments = np.zeros(1024, np.uint8)
        if self.kind == "array":
            text = json.dumps([["", self.dtype]]).encode()
            header = np.zeros(1, _ARRAY_ARGUMENTS)
            header["shape"][0, : len(self.shape)] = self.shape
            header["length"] = len(text)
            content = header.tobytes() + text
            arguments[: len(content)] = np.frombuffer(content, np.uint8)
        kind = {"int": _INT, "array": _ARRAY}.get(self.kind, _IMAGE)
        return kind, self.name.encode("ascii"), arguments


def _entries(fields: Sequence[Field]) -> np.dtype:
    return np.dtype([("", field._entry) for field in fields], align=True)


class BetonWriter:
    """Write a file from its samples, in their order, into a file that is empty.

    Raises:
        DataError: If a sample is too large for the format.
    """

    def __init__(self, file: BinaryIO, fields: Sequence[Field], *, num_samples: int) -> None:
        self._file = file
        self._fields = fields
        self._entries = np.zeros(num_samples, _entries(fields))
        with_data = [field for field in fields if field.kind != "int"]
        self._table = np.zeros(num_samples * len(with_data), _TABLE_ROW)
        largest = sum(field.num_bytes for field in with_data) * 2  # a JPEG may exceed its pixels
        self._page_size = max(MIN_PAGE, 1 << (largest - 1).bit_length())
        if self._page_size > MAX_PAGE:
            raise DataError(f"samples of {largest // 2:,} bytes do not fit into a page of FFCV, {MAX_PAGE // 2:,}")
        self._page = bytearray()
        self._done = 0
        self._regions = 0
        start = _HEADER.itemsize + len(fields) * _DESCRIPTION.itemsize + self._entries.nbytes
        self._next = -(-start // self._page_size) * self._page_size

    def add(self, values: Sequence[int | bytes | memoryview]) -> None:
        """One sample: of each field its integer or the bytes of its data."""
        needed = sum(len(value) for value in values if not isinstance(value, int))
        if needed > self._page_size:
            raise DataError(f"sample {self._done} has {needed:,} bytes, a page of the file {self._page_size:,}")
        if len(self._page) + needed > self._page_size:
            self._flush()
        entry = self._entries[self._done]
        for number, (field, value) in enumerate(zip(self._fields, values, strict=True)):
            if isinstance(value, int):
                entry[number] = value
                continue
            place = self._next + len(self._page)
            self._page += value
            self._table[self._regions] = self._done, place, len(value)
            self._regions += 1
            if field.kind == "array":
                entry[number] = place
            else:
                entry[number] = _MODES[field.kind], field.shape[1], field.shape[0], place
        self._done += 1

    def finish(self) -> None:
        """Write what could only be known at the end."""
        assert self._done == len(self._entries)
        if self._page:
            self._flush()
        self._file.seek(self._next)
        self._file.write(self._table.data)
        header = np.zeros(1, _HEADER)
        header[0] = _VERSION, len(self._fields), self._page_size, self._done, self._next
        described = np.array([field._described() for field in self._fields], _DESCRIPTION)
        self._file.seek(0)
        self._file.write(header.tobytes() + described.tobytes())
        self._file.write(self._entries.data)

    def _flush(self) -> None:
        """Write the page; what is left of it reads as zeros."""
        self._file.seek(self._next)
        self._file.write(self._page)
        self._next += self._page_size
        self._page = bytearray()


class Beton:
    """A file of fields, read from a memory map; any sample, from any thread.

    Attributes:
        num_samples: N.
        fields: Name -> field, in the file's order; the shape of images is that of the first sample's.

    Raises:
        DataError: If it is missing or damaged, or holds images of several sizes or fields of other kinds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise DataError(f"{path} cannot be read ({error}): name a file of genrep-shards export ffcv") from error
        try:
            self._read_head()
        except (ValueError, TypeError, KeyError, RecursionError, MemoryError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is no FFCV file that can be read ({error}): export it again") from error

    def integers(self, name: str) -> NDArray[np.int64]:
        """int64 (N,) of an ``int`` field."""
        return self._entry(name).astype(np.int64)

    def data(self, name: str, samples: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """The bytes of an image or array of each sample, without a copy."""
        places, sizes = self._places[name]
        content = np.frombuffer(self._bytes, np.uint8)
        for place, size in zip(places[samples].tolist(), sizes[samples].tolist(), strict=True):
            yield content[place : place + size]

    def _read_head(self) -> None:
        header = self._array(_HEADER, 1, 0)[0]
        if header["version"] != _VERSION:
            raise ValueError(f"version {header['version']}, not {_VERSION}")
        self.num_samples, table = int(header["num_samples"]), int(header["table"])
        described = self._array(_DESCRIPTION, int(header["num_fields"]), _HEADER.itemsize)
        self.fields = {field.name: field for field in map(_field_of, described)}
        kinds = list(self.fields.values())
        self._entries = self._array(_entries(kinds), self.num_samples, _HEADER.itemsize + described.nbytes)
        rows = self._array(_TABLE_ROW, (len(self._bytes) - table) // _TABLE_ROW.itemsize, table)
        order = np.argsort(rows["place"], kind="stable")
        known, sizes = rows["place"][order], rows["size"][order].astype(np.int64)
        self._places: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for field in kinds:
            if field.kind == "int":
                continue
            entry = self._entry(field.name)
            if field.kind == "raw":
                field = self._image_field(field.name, entry)
                entry = entry["place"]
            rank = np.minimum(np.searchsorted(known, entry), len(known) - 1)
            places, found = entry.astype(np.int64), sizes[rank]
            inside = (places >= 0) & (found >= 0) & (found <= table) & (places <= table - found)
            if not ((known[rank] == entry) & inside).all():
                raise ValueError(f"places of {field.name} are not in its table or not in the file")
            if field.kind != "jpg" and not (found == field.num_bytes).all():
                raise ValueError(f"{field.name} has data of another size than its shape {field.shape}")
            self._places[field.name] = places, found

    def _image_field(self, name: str, entry: NDArray) -> Field:
        """The field of an image, whose kind and size stand with the samples."""
        first = entry[0]
        if not all((entry[part] == first[part]).all() for part in ("mode", "height", "width")):
            raise ValueError(f"images of several sizes or kinds in {name}")
        kind: Kind = "jpg" if first["mode"] == _MODES["jpg"] else "raw"
        self.fields[name] = field = Field(name, kind, (int(first["height"]), int(first["width"]), 3))
        return field

    def _entry(self, name: str) -> NDArray:
        return self._entries[f"f{list(self.fields).index(name)}"]

    def _array(self, dtype: np.dtype, count: int, offset: int) -> NDArray:
        if count < 1 or offset + count * dtype.itemsize > len(self._bytes):
            raise ValueError(f"{len(self._bytes):,} bytes are too few or its header is damaged")
        return np.frombuffer(self._bytes, dtype, count, offset)


def _field_of(described: np.void) -> Field:
    name, kind = described["name"].decode("ascii"), int(described["kind"])
    if kind == _INT:
        return Field(name, "int")
    if kind == _IMAGE:
        return Field(name, "raw")
    if kind != _ARRAY:
        raise ValueError(f"field {name!r} of kind {kind}")
    arguments = described["arguments"].tobytes()
    header = np.frombuffer(arguments, _ARRAY_ARGUMENTS, 1)[0]
    start = _ARRAY_ARGUMENTS.itemsize
    [[_, dtype]] = json.loads(arguments[start : start + int(header["length"])])
    shape = tuple(int(side) for side in header["shape"] if side)
    if not isinstance(dtype, str) or np.dtype(dtype).hasobject:
        raise ValueError(f"field {name!r} of numbers {dtype!r}")
    return Field(name, "array", shape, dtype)
