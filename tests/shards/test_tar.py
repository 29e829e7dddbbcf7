import io
import tarfile

import numpy as np
import pytest
import webdataset

from genrep.shards import tar
from genrep.shards.errors import DataError

SIZES = [0, 1, 511, 512, 513, 10_240, 70_000]
NAMES = [f"{index:09d}.anchor.png" for index in range(len(SIZES))]


def content(size):
    return bytes(range(1, 252)) * (size // 251) + b"x" * (size % 251)


def packed(names=NAMES, sizes=SIZES):
    return tar.pack(names, [content(size) for size in sizes])


@pytest.mark.parametrize("sizes", [[size] for size in SIZES] + [SIZES, SIZES * 3])
def test_an_archive_is_byte_for_byte_the_one_that_webdataset_writes(sizes):
    names = [f"{index:09d}.view{index}.jpg" for index in range(len(sizes))]
    file = io.BytesIO()
    with webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for name, size in zip(names, sizes, strict=True):
            sample_key, _, member = name.partition(".")
            writer.write({"__key__": sample_key, member: content(size)})
    assert bytes(packed(names, sizes)) == file.getvalue()


def test_walking_gives_what_the_standard_library_gives():
    archive = packed()
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        expected = [(member.name, member.offset_data, member.size) for member in file]
    assert [(member.name, member.offset, member.size) for member in tar.walk(archive)] == expected


def test_offsets_and_total_size_follow_from_the_sizes_alone():
    archive, sizes = packed(), np.array(SIZES)
    assert tar.archive_bytes(sizes) == len(archive)
    for offset, size in zip(tar.data_offsets(sizes), SIZES, strict=True):
        assert archive[offset : offset + size] == content(size)


@pytest.mark.parametrize(
    "member",
    [
        {"name": "../../000000000.cls"},
        {"name": "/000000000.cls"},
        {"name": "a/000000000.cls"},
        {"name": "000000000"},
        {"name": "000000000.cls\n"},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "000000000.json"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.AREGTYPE},
        {"mtime": 1},
        {"uid": 1},
        {"mode": 0o777},
        {"uname": "somebody"},
        {"size": 8**11 - 1},
        {"size": 10_240},
    ],
    ids=str,
)
def test_a_member_of_another_kind_is_refused(member):
    info = tarfile.TarInfo("000000000.cls")
    info.uname = info.gname = "bigdata"
    info.mode = 0o444
    for field, value in member.items():
        setattr(info, field, value)
    header = info.tobuf(tarfile.USTAR_FORMAT)
    archive = (header + bytes(512)).ljust(tar.RECORD, b"\0")
    with pytest.raises(DataError, match=r"at byte 0, after the beginning: "):
        list(tar.walk(memoryview(archive)))


def test_no_flipped_bit_of_a_header_goes_unseen():
    whole = bytes(packed(NAMES[:2], [3, 5]))
    for place in range(512):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            with pytest.raises(DataError):
                list(tar.walk(memoryview(damaged)))


def test_an_archive_cut_short_anywhere_is_refused():
    whole = packed(NAMES[:3], [3, 600, 5])
    for end in range(0, len(whole), 256):
        with pytest.raises(DataError):
            list(tar.walk(whole[:end]))


@pytest.mark.parametrize("place", [512 + 3, -1, -tar.BLOCK])
def test_bytes_outside_of_the_members_are_refused(place):
    damaged = bytearray(packed(NAMES[:1], [3]))
    damaged[place] = 1
    with pytest.raises(DataError, match="empty"):
        list(tar.walk(memoryview(damaged)))


def test_an_archive_that_goes_on_after_its_end_is_refused():
    with pytest.raises(DataError, match="does not end"):
        list(tar.walk(memoryview(bytes(packed()) + bytes(tar.RECORD))))


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("000000000.cls", 8**11), ("000000000.cls", -1)])
def test_what_does_not_fit_in_a_header_is_not_cut(name, size):
    with pytest.raises(ValueError, match="ustar header"):
        tar.headers([name], np.array([size]))
