"""Whether a set is whole and unchanged, and where not."""

import json
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.shards import tar
from genrep.shards.codec import check
from genrep.shards.errors import DataError, printable
from genrep.shards.layout import MANIFEST, WIDS_INDEX, SetLayout, ShardSpec, key, layout_of
from genrep.shards.location import Location, RemotePath, location
from genrep.shards.manifest import ShardEntry, build_manifest, read_manifest, read_recipe, wids_bytes
from genrep.shards.npy import latents_of
from genrep.shards.subset import read_subset
from genrep.shards.table import ShardFacts, ShardTable, read_table

MAX_FAULTS = 20  # listed for one shard
_CHUNK = 2**20


@dataclass(frozen=True)
class Fault:
    """What is wrong and where.

    Attributes:
        shard: Name of the shard, or of the other file of the set that is wrong.
        key: Of the sample; empty if it is not one sample's fault.
        member: Such as ``anchor.png``; empty if it is not one member's fault.
        message: What is wrong, in one line.
    """

    shard: str
    key: str
    member: str
    message: str

    def __str__(self) -> str:
        sample = f", sample {self.key}" if self.key else ""
        member = f", {self.member}" if self.member else ""
        return printable(f"{self.shard}{sample}{member}: {self.message}")


def verify(
    folder: str | os.PathLike[str] | RemotePath, *, deep: bool = False, progress: Callable[[int], object] | None = None
) -> list[Fault]:
    """Compare a set with its recipe, its manifest and its tables; at most some twenty faults a shard are listed.

    Every shard must be there, with the size and the sha256 that manifest and table give, and its headers must be
    those of the members in the table. A shard with another sha256 is searched for the members that differ.

    Args:
        folder: Of the set; or the file of a subset, of whose parent only the shards that it names are looked at.
        deep: Compare every member with its sha256 in the table, and read it: images of the right size, latents,
            label, metadata.
        progress: Called after each shard with the number of its samples.

    Raises:
        DataError: If the folder is none of a set.
    """
    folder, wanted = shards_of(location(folder))
    recipe = read_recipe(folder)
    layout = layout_of(recipe)
    plan = layout.shards
    faults: list[Fault] = []
    facts: dict[ShardSpec, ShardFacts] = {}
    specs = [spec for spec in plan if wanted is None or spec.name in wanted]
    for spec, (found, shard_faults) in _checked(folder, specs, layout, deep=deep):
        faults += shard_faults
        if found is not None:
            facts[spec] = found
        if progress is not None:
            progress(spec.count)
    planned = {spec.name for spec in plan}
    strangers = sorted(path.name for path in folder.glob("shard-*.tar") if path.name not in planned)
    faults += [Fault(name, "", "", "is no shard of this recipe: remove it") for name in strangers]
    return faults + _faults_of_manifest(folder, recipe, facts)


def shards_of(path: Location) -> tuple[Location, set[str] | None]:
    """Folder of a set, or of a subset's parent, and the names of the subset's shards; None for all."""
    if not (isinstance(path, Path) and path.is_file()):
        return path, None
    subset = read_subset(path)
    plan = layout_of(read_recipe(subset.folder)).shards
    chosen = np.searchsorted([spec.first for spec in plan], subset.indices, side="right") - 1
    return subset.folder, {plan[number].name for number in np.unique(chosen).tolist()}


def check_shard(
    folder: Location, spec: ShardSpec, layout: SetLayout, *, deep: bool
) -> tuple[ShardFacts | None, list[Fault]]:
    """What the table of a shard says, if it can be read, and what is wrong with tar and table."""
    path = folder / spec.name
    try:
        table = read_table(folder / spec.table, members=layout.members, num_samples=spec.count)
    except DataError as error:
        return None, [Fault(spec.name, "", "", str(error)), *_faults_without_table(path, spec, layout)]
    return table.facts, listed(_faults_of_shard(path, spec, layout, table, deep=deep), spec)


def _checked(
    folder: Location, specs: list[ShardSpec], layout: SetLayout, *, deep: bool
) -> Iterator[tuple[ShardSpec, tuple[ShardFacts | None, list[Fault]]]]:
    """``check_shard`` of each in order, as many at once as there are cores: hashes and decoders run side by side."""
    cores = len(os.sched_getaffinity(0)) if isinstance(folder, Path) else 1
    running: deque[tuple[ShardSpec, Future[tuple[ShardFacts | None, list[Fault]]]]] = deque()
    with ThreadPoolExecutor(cores) as threads:
        try:
            for spec in specs:
                running.append((spec, threads.submit(check_shard, folder, spec, layout, deep=deep)))
                if len(running) > cores:  # no more results wait than a set of any size may have
                    first, future = running.popleft()
                    yield first, future.result()
            for first, future in running:
                yield first, future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def listed(faults: Iterator[Fault], spec: ShardSpec) -> list[Fault]:
    """Not more than a person reads."""
    first = list(islice(faults, MAX_FAULTS))
    return first + [Fault(spec.name, "", "", "has more faults than these") for _ in islice(faults, 1)]


def _faults_of_manifest(
    folder: Location, recipe: Mapping[str, Any], facts: Mapping[ShardSpec, ShardFacts]
) -> list[Fault]:
    """Hold the manifest against the tables that could be read."""
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [Fault(MANIFEST, "", "", str(error))]
    expected = build_manifest(recipe, facts)
    listed = {shard.name: shard for shard in manifest.shards}
    faults = [
        Fault(MANIFEST, "", "", f"differs from the table of {shard.name} in {_differing(listed[shard.name], shard)}")
        for shard in expected.shards
        if listed[shard.name] != shard
    ]
    if faults or len(facts) < len(manifest.shards):  # known already, and nothing whole to compare with
        return faults
    if manifest != expected:
        faults.append(Fault(MANIFEST, "", "", "is not what recipe and tables give"))
    index = folder / WIDS_INDEX
    if not (index.is_file() and index.read_bytes() == wids_bytes(expected)):
        faults.append(Fault(WIDS_INDEX, "", "", "is missing, or not the index of these shards"))
    return faults


def _differing(listed: ShardEntry, expected: ShardEntry) -> str:
    names = [field.name for field in fields(ShardEntry)]
    return ", ".join(name for name in names if getattr(listed, name) != getattr(expected, name))


def _faults_without_table(path: Location, spec: ShardSpec, layout: SetLayout) -> list[Fault]:
    """What can be said of a tar whose table is of no use."""
    expected = (f"{key(spec.first + row)}.{member}" for row in range(spec.count) for member in layout.members)
    try:
        found = (member.name for member in tar.walk(mapped(path)))
        is_right = all(name == other for name, other in zip_longest(found, expected))
    except DataError as error:
        return [Fault(spec.name, "", "", str(error))]
    return [] if is_right else [Fault(spec.name, "", "", "does not hold the members of its samples in order")]


def _faults_of_shard(
    path: Location, spec: ShardSpec, layout: SetLayout, table: ShardTable, *, deep: bool
) -> Iterator[Fault]:
    """Hold one tar against its table."""
    try:
        archive = mapped(path)
        displacement = _displacement(archive, spec, table)
        if displacement:
            raise DataError(displacement)
        found, strangers = _hash_and_strange_headers(path, archive, spec, table)
    except DataError as error:
        yield Fault(spec.name, "", "", str(error))
        return
    is_same = found == table.facts.tar_sha256
    num_faults = len(strangers)
    for name in strangers:
        sample_key, _, member = name.partition(".")
        yield Fault(spec.name, sample_key, member, "its header in the tar is not that of this member in the table")
    if deep or not is_same:
        for fault in _faults_of_members(archive, spec, layout, table, deep=deep):
            num_faults += 1
            yield fault
    if not is_same and not num_faults:
        yield Fault(spec.name, "", "", "differs from its sha256 in the table, outside of its members")


def _displacement(archive: memoryview, spec: ShardSpec, table: ShardTable) -> str:
    """Why the members cannot be where the table says; empty if they can."""
    sizes, offsets = _in_archive_order(table.sizes), _in_archive_order(table.offsets)
    if list(table.keys) != spec.keys:
        return "its table has not the keys of its samples in order"
    if (sizes < 0).any() or (sizes >= tar.MAX_BYTES).any() or (offsets != tar.data_offsets(sizes)).any():
        return "its table places members where they cannot be"
    needed = tar.archive_bytes(sizes)
    if len(archive) != needed or table.facts.tar_bytes != needed:
        return f"has {len(archive):,} bytes, its table says {table.facts.tar_bytes:,} and lists members for {needed:,}"
    return ""


def _hash_and_strange_headers(
    path: Location, archive: memoryview, spec: ShardSpec, table: ShardTable
) -> tuple[str, list[str]]:
    """Of a tar that is gone through once: its sha256, and the members whose headers are not those of the table."""
    names = tar.member_names(spec.first, spec.count, list(table.sizes))
    headers = tar.Headers(names, _in_archive_order(table.sizes), _in_archive_order(table.offsets))
    digest, position = sha256(), 0
    strangers: list[str] = []
    for piece in _read(path) if isinstance(path, Path) else [archive]:
        digest.update(piece)
        strangers += headers.strange(piece, position)
        position += len(piece)
    return digest.hexdigest(), strangers


def _in_archive_order(by_member: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.stack(list(by_member.values()), axis=1).ravel()


def _faults_of_members(
    archive: memoryview, spec: ShardSpec, layout: SetLayout, table: ShardTable, *, deep: bool
) -> Iterator[Fault]:
    """Hold the bytes of every member against the table and, if ``deep``, read them."""
    image = np.empty(layout.image_shape, np.uint8)
    places = {m: list(zip(table.offsets[m].tolist(), table.sizes[m].tolist(), strict=True)) for m in layout.members}
    digests = {member: table.digests[member].tobytes() for member in layout.members}
    for row, label in enumerate(table.labels.tolist()):
        for member in layout.members:
            offset, size = places[member][row]
            content = archive[offset : offset + size]
            if sha256(content).digest() != digests[member][32 * row : 32 * row + 32]:
                yield Fault(spec.name, key(spec.first + row), member, "differs from its sha256 in the table")
            elif deep:
                try:
                    _check_content(member, content, layout, index=spec.first + row, label=label, image=image)
                except DataError as error:
                    yield Fault(spec.name, key(spec.first + row), member, str(error))


def _check_content(
    member: str, content: memoryview, layout: SetLayout, *, index: int, label: int, image: NDArray[np.uint8]
) -> None:
    if member == "latents.npy":
        latents_of(content, num_images=layout.num_images)
    elif member == "cls":
        if content != b"%d" % label:
            raise DataError(f"is {bytes(content[:20])!r} where the table has label {label}")
    elif member == "json":
        try:
            meta = json.loads(bytes(content))
        except (ValueError, RecursionError) as error:
            raise DataError(f"is no JSON ({type(error).__name__})") from error
        if not isinstance(meta, dict) or meta.get("index") != index:
            raise DataError(f"is not that of sample index {index}")
    else:
        check(content, image)


def mapped(path: Location) -> memoryview:
    """The bytes of a file, unread; those of a store are fetched, whatever the cache holds."""
    if not path.is_file():  # opening a pipe would wait for its other end
        raise DataError("is missing")
    try:
        if isinstance(path, RemotePath):
            from genrep.shards.cache import mapped_copy

            return mapped_copy(path)
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise DataError(f"cannot be read ({error})") from error


def _read(path: Path) -> Iterator[memoryview]:
    """The bytes of a file piece by piece, each good until the next: whole blocks, if the file has whole blocks.

    Read, not mapped: a failing disk is then an error and not the end of the process.
    """
    view = memoryview(bytearray(_CHUNK))
    try:
        with path.open("rb") as file:  # buffered: it fills the piece, whatever the system gives at a time
            while count := file.readinto(view):
                yield view[:count]
    except OSError as error:
        raise DataError(f"cannot be read ({error})") from error
