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

_NAME = slice(0, 100)
_SIZE = slice(124, 135)
_CHECKSUM = slice(148, 154)
# name, mode, uid, gid, size, mtime, checksum, type, link, magic, version, user, group; no device numbers, no prefix
_TEMPLATE = b"".join((
    bytes(100), b"0000444\0", b"0000000\0", b"0000000\0", b"00000000000\0", b"00000000000\0", b"000000\0 ", b"0",
    bytes(100), b"ustar\0", b"00", b"bigdata".ljust(32, b"\0"), b"bigdata".ljust(32, b"\0"),
)).ljust(BLOCK, b"\0")  # fmt: skip
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
    keys: Any = np.char.zfill(np.arange(first, first + count).astype(np.bytes_), KEY_DIGITS)
    suffixes: Any = np.array([f".{member}" for member in members], np.bytes_)
    return np.asarray(np.char.add(keys[:, None], suffixes)).ravel()


def headers(names: Sequence[str] | Names, sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Header blocks, uint8 (N, 512), of members with ASCII names of at most 100 bytes."""
    text = np.asarray(names, np.bytes_)
    if text.itemsize > 100 or (sizes < 0).any() or (sizes >= MAX_BYTES).any():
        raise ValueError(f"a ustar header holds names up to 100 bytes and sizes below {MAX_BYTES}")
    letters, digits = text.view(np.uint8).reshape(len(text), -1), _octal_digits(sizes, 11)
    # the checksum counts its own field, eight bytes, as blanks
    fixed = sum(_TEMPLATE) - sum(_TEMPLATE[148:156]) - sum(_TEMPLATE[_SIZE]) + 8 * ord(" ")
    blocks = np.tile(np.frombuffer(_TEMPLATE, np.uint8), (len(text), 1))
    blocks[:, : text.itemsize] = letters
    blocks[:, _SIZE] = digits
    blocks[:, _CHECKSUM] = _octal_digits(
        fixed + letters.sum(axis=1, dtype=np.int64) + digits.sum(axis=1, dtype=np.int64), 6
    )
    return blocks


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


def _octal_digits(numbers: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    shifts = 3 * np.arange(count - 1, -1, -1, dtype=np.int64)
    return (ord("0") + ((numbers[:, None] >> shifts) & 7)).astype(np.uint8)
