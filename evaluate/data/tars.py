"""WebDataset tars of a labelled image a sample: ``KEY.jpg`` (or png, webp, ...) and ``KEY.cls``."""

import mmap
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from genrep.evaluate.data.part import SUFFIXES, RealData, Split, decoded, real_data
from genrep.shards.cache import mapped_copy
from genrep.shards.errors import DataError
from genrep.shards.location import RemotePath, location

FORM = "wds:TRAIN,TEST, two paths or URLs of tars, such as wds:train-{000..146}.tar,val-{00..06}.tar"


def open_tars(name: str, place: str) -> RealData:
    """TRAIN,TEST: paths or URLs that fsspec knows, with braces and ``::`` as WebDataset has them.

    A remote tar is fetched once a process.

    Raises:
        DataError: If a tar cannot be read, or a sample has not one image and a class.
    """
    parts = re.findall(r"(?:[^,{]|\{[^}]*\})+", place)  # a comma within braces is none between parts
    if len(parts) != 2 or "pipe:" in place:
        raise DataError(f"{name!r} does not name tars to fit on and tars to test on: use {FORM}")
    train, test = (_split(part) for part in parts)
    num_classes = 1 + max(int(train.labels.max()), int(test.labels.max()))
    return real_data(name, tuple(map(str, range(num_classes))), train=train, test=test)


def _split(urls: str) -> Split:
    from webdataset.shardlists import expand_urls

    names: list[str] = []
    labels: list[int] = []
    places: list[tuple[memoryview, int, int]] = []
    for url in expand_urls(urls):
        archive, tar = _mapped(url), url.rpartition("/")[2]
        for key, members in _samples(archive, url).items():
            images = [member for suffix, member in members.items() if f".{suffix.lower()}" in SUFFIXES]
            if len(images) != 1 or "cls" not in members:
                raise DataError(
                    f"{url}: sample {key!r} has {', '.join(sorted(members))}: give each one image (.jpg, .png, "
                    ".webp, ...) and a .cls"
                )
            text = bytes(_content(archive, members["cls"])).strip()
            if not re.fullmatch(rb"\d{1,6}", text):
                raise DataError(f"{url}: the .cls of sample {key!r} is {text[:20]!r}: it must be a class number from 0")
            names.append(f"{tar}/{images[0].name}")
            labels.append(int(text))
            places.append((archive, images[0].offset_data, images[0].size))
    if not names:
        raise DataError(f"{urls} has no samples: give each an image and a .cls")

    def content(position: int) -> bytes:
        archive, offset, size = places[position]
        return bytes(archive[offset : offset + size])

    return Split(names, np.array(labels), content, decoded)


def _mapped(url: str) -> memoryview:
    place = location(url)
    try:
        if isinstance(place, RemotePath):
            return mapped_copy(place)
        with open(Path(place).expanduser(), "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{url} cannot be read ({reason}): use {FORM}") from error


def _samples(archive: memoryview, url: str) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Key -> suffix -> member, in the order of the keys' first members."""
    from webdataset.tariterators import base_plus_ext

    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        file: Any = archive.obj  # an mmap, which reads and seeks
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, suffix = base_plus_ext(member.name)
                if member.isfile() and key and not member.issparse():
                    if member.offset_data + member.size > len(archive):
                        raise tarfile.ReadError(f"{member.name} goes beyond the end")
                    samples.setdefault(key, {})[suffix] = member
            if archive[tar.offset :][: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):  # tarfile takes a cut for an end
                raise tarfile.ReadError("its end is missing")
    except tarfile.TarError as error:
        raise DataError(f"{url} is not a whole tar ({error}): fetch it again") from error
    return samples


def _content(archive: memoryview, member: tarfile.TarInfo) -> memoryview:
    return archive[member.offset_data : member.offset_data + member.size]
