"""Ustar archives (POSIX.1-1988) as webdataset's ``TarWriter(mtime=0)`` writes them, a whole shard at a time."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError
from genrep.shards.layout import KEY_DIGITS

Names = NDArray[np.bytes_]

BLOCK = 512
RECORD = 20 * BLOCK  # archives are padded to whole records
MAX_BYTES = 8**11  # of a member: its size has eleven octal digits

_VARYING = 160  # bytes at a header's beginning, whole words, that hold all that differs between members
_NAME = slice(0, 100)
_SIZE = slice(124, 135)
_CHECKSUM = slice(148, 154)
# name, mode, uid, gid, size, mtime, checksum, type, link, magic, version, user, group; no device numbers, no prefix
_TEMPLATE = b"".join((
    bytes(100), b"0000444\0", b"0000000\0", b"0000000\0", b"00000000000\0", b"00000000000\0", b"000000\0 ", b"0",
    bytes(100), b"ustar\0", b"00", b"bigdata".ljust(32, b"\0"), b"bigdata".ljust(32, b"\0"),
)).ljust(BLOCK, b"\0")  # fmt: skip
# of the bytes that are the same in all headers; the checksum counts its own field, eight bytes, as blanks
_FIXED_SUM = sum(_TEMPLATE) - sum(_TEMPLATE[148:156]) - sum(_TEMPLATE[_SIZE]) + 8 * ord(" ")
_OWN_NAME = re.compile(rb"[0-9]{9}\.[a-z0-9]+(\.[a-z0-9]+)?")


@dataclass(frozen=True)
class Member:
    """A file in an archive: ``size`` bytes from ``offset`` on."""

    name: str
    offset: int
    size: int


def data_offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the contents of successive members begin; sizes int64 (N,)."""
    ends = np.cumsum(BLOCK + _padded(sizes, BLOCK))
    return ends - _padded(sizes, BLOCK)


def archive_bytes(sizes: NDArray[np.int64]) -> int:
    """Size of an archive of such members, with the two empty blocks and the padding at its end."""
    return int(_padded(int(np.sum(BLOCK + _padded(sizes, BLOCK))) + 2 * BLOCK, RECORD))


def member_names(first: int, count: int, members: Sequence[str]) -> Names:
    """Names of the members of successive samples in archive order, bytes (count * M,)."""
    suffixes = np.array([f".{member}" for member in members], np.bytes_)
    width = KEY_DIGITS + suffixes.itemsize
    powers = 10 ** np.arange(KEY_DIGITS - 1, -1, -1)
    letters = np.empty((count, len(members), width), np.uint8)
    letters[:, :, :KEY_DIGITS] = (ord("0") + np.arange(first, first + count)[:, None] // powers % 10)[:, None]
    letters[:, :, KEY_DIGITS:] = suffixes.view(np.uint8).reshape(len(members), -1)
    return letters.view(f"S{width}").ravel()


def headers(names: Sequence[str] | Names, sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Header blocks, uint8 (N, 512), of members with ASCII names of at most 100 bytes."""
    blocks = np.empty((len(sizes), BLOCK), np.uint8)
    blocks[:, :_VARYING] = _beginnings(np.asarray(names, np.bytes_), sizes)
    blocks[:, _VARYING:] = np.frombuffer(_TEMPLATE, np.uint8)[_VARYING:]
    return blocks


class Headers:
    """The headers that N members should have, to be held against an archive that is read piece by piece.

    Args:
        offsets: Of their contents, int64 (N,), rising by whole blocks.
    """

    def __init__(self, names: Names, sizes: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        self._names = names
        self._beginnings = _beginnings(names, sizes).view(np.int64)
        self._rest = np.frombuffer(_TEMPLATE, np.int64)[_VARYING // 8 :]
        self._positions = offsets - BLOCK

    def strange(self, piece: memoryview, position: int) -> list[str]:
        """Names of the members whose header, in a piece of whole blocks from ``position`` on, is another."""
        first, last = np.searchsorted(self._positions, [position, position + len(piece)])
        blocks = np.frombuffer(piece, np.int64).reshape(-1, BLOCK // 8)
        found = blocks.take((self._positions[first:last] - position) // BLOCK, axis=0)
        words = _VARYING // 8
        own = self._beginnings[first:last]
        if np.array_equal(found[:, :words], own) and (found[:, words:] == self._rest).all():
            return []
        is_strange = (found[:, :words] != own).any(axis=1) | (found[:, words:] != self._rest).any(axis=1)
        return [name.decode() for name in self._names[first:last][is_strange].tolist()]


def _beginnings(names: Names, sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What differs between headers, uint8 (N, 160), and what lies between."""
    if names.itemsize > 100 or (sizes < 0).any() or (sizes >= MAX_BYTES).any():
        raise ValueError(f"a ustar header holds names up to 100 bytes and sizes below {MAX_BYTES}")
    beginnings = np.empty((len(names), _VARYING), np.uint8)
    beginnings[:] = np.frombuffer(_TEMPLATE, np.uint8)[:_VARYING]
    letters = names.view(np.uint8).reshape(len(names), -1)
    beginnings[:, : names.itemsize] = letters
    _put_octal(sizes, beginnings[:, _SIZE])
    _put_octal(_FIXED_SUM + _sums(letters) + _sums(beginnings[:, _SIZE]), beginnings[:, _CHECKSUM])
    return beginnings


def _sums(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of each row (N, W): matrix products are faster than sums of short rows, and exact for so few bytes."""
    return (rows.astype(np.float32) @ np.ones(rows.shape[1], np.float32)).astype(np.int64)


def pack(names: Sequence[str] | Names, contents: Sequence[bytes]) -> memoryview:
    """The whole archive of these members, in this order."""
    sizes = np.fromiter(map(len, contents), np.int64, len(contents))
    offsets = data_offsets(sizes)
    archive = np.zeros(archive_bytes(sizes), np.uint8)
    archive.reshape(-1, BLOCK)[offsets // BLOCK - 1] = headers(names, sizes)
    view = archive.data
    for offset, content in zip(offsets.tolist(), contents, strict=True):
        view[offset : offset + len(content)] = content
    return view


def walk(archive: memoryview) -> Iterator[Member]:
    """The members of an archive that ``pack`` could have written; any other is refused at its first strange byte.

    Nothing is allocated by what a header claims, so an archive from elsewhere may be walked.

    Raises:
        DataError: With the place and what is wrong there: a header of another kind (link, device, other owner or
            time), a name that is none of a sample's member, a size beyond the end, a missing or dirty end.
    """
    position, last = 0, "the beginning"
    while True:
        place = f"at byte {position:,}, after {last}"
        header = bytes(archive[position : position + BLOCK])
        if len(header) < BLOCK:
            raise DataError(f"{place}: the archive ends without its two empty blocks")
        if not any(header):
            break
        name, size = header[_NAME].rstrip(b"\0"), header[_SIZE]
        if not _OWN_NAME.fullmatch(name):
            raise DataError(f"{place}: {name[:60]!r} is no name of a sample's member")
        if not re.fullmatch(rb"[0-7]{11}", size):
            raise DataError(f"{place}: the size of {name.decode()} is {size!r}, not eleven octal digits")
        member = Member(name.decode(), position + BLOCK, int(size, 8))
        if not _is_plain(header):
            raise DataError(f"{place}: the header of {member.name} is not that of a plain file of a shard")
        position = int(member.offset + _padded(member.size, BLOCK))
        if position > len(archive):
            raise DataError(f"{place}: {member.name} claims {member.size:,} bytes, more than the archive has left")
        padding = archive[member.offset + member.size : position]
        if padding != bytes(len(padding)):
            raise DataError(f"{place}: the padding of {member.name} is not empty")
        yield member
        last = member.name
    if len(archive) != _padded(position + 2 * BLOCK, RECORD) or any(archive[position:]):
        raise DataError(f"{place}: the archive does not end in two empty blocks and padding to {RECORD:,} bytes")


def _is_plain(header: bytes) -> bool:
    """Whether all but name and size is as ``headers`` has it."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    constant = (slice(100, 124), slice(135, 148), slice(154, BLOCK))
    return header[_CHECKSUM] == b"%06o" % total and all(header[part] == _TEMPLATE[part] for part in constant)


def _padded(size: Any, unit: int) -> Any:
    return -(-size // unit) * unit


def _put_octal(numbers: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """The last digits of numbers (N,) into ``out`` (N, count); what is computed for one column stays in the cache."""
    for place in range(out.shape[1]):
        out[:, -1 - place] = ord("0") + (numbers >> 3 * place & 7)
