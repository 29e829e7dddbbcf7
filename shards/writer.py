"""From batches of rendered samples to shards, tables and a finished set."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.shards import atomic, tar
from genrep.shards.ahead import ahead
from genrep.shards.batch import Batch
from genrep.shards.codec import encode
from genrep.shards.errors import DataError
from genrep.shards.layout import MANIFEST, README, RECIPE, TABLES, WIDS_INDEX, SetLayout, ShardSpec, layout_of
from genrep.shards.location import Location, RemotePath, location
from genrep.shards.manifest import (
    Manifest,
    build_manifest,
    json_bytes,
    manifest_bytes,
    read_recipe,
    recipe_differences,
    wids_bytes,
)
from genrep.shards.npy import npy_header
from genrep.shards.readme import readme_bytes
from genrep.shards.sample import meta_bytes
from genrep.shards.table import ShardFacts, ShardTable, read_facts, table_bytes

REQUESTS = 16  # to a store at a time


class DatasetWriter:
    """Write the set of one recipe into one folder: its shards in any order, from any number of processes.

    A shard is whole or absent: its table gets its name before its tar, and the tar's name is the commit.
    """

    def __init__(
        self,
        out: str | PathLike[str] | RemotePath,
        recipe: Mapping[str, Any],
        *,
        licence: str | None = None,
        encode_workers: int = 1,
    ) -> None:
        """Claim the folder for the recipe.

        Args:
            out: Folder or URL. Made if it is missing; it may hold a part of the same set, and nothing else.
            licence: Under which the images stand, if the generator says so.
            encode_workers: Threads that encode while the caller renders; the bytes do not depend on it.

        Raises:
            DataError: If the folder holds another recipe or foreign files, or cannot be written.
        """
        self.folder = location(out)
        self.recipe: dict[str, Any] = json.loads(json_bytes(recipe))
        self._licence = licence
        self._encode_workers = encode_workers
        self._layout = layout_of(self.recipe)
        self._plan = self._layout.shards
        _claim(self.folder, self.recipe)

    def missing_shards(self) -> list[ShardSpec]:
        """The shards that are still to be written.

        Raises:
            DataError: If a shard that is there has not the size that its table says.
        """
        return [spec for spec, facts in self._all_facts().items() if facts is None]

    def write_shard(self, spec: ShardSpec, batches: Iterable[Batch], environment: Mapping[str, Any]) -> None:
        """Encode the samples of a shard and commit it; one that is there already stays as it is.

        While a batch is being encoded, the next is drawn from ``batches`` in the caller's thread. The shard lies in
        memory until it is whole. Whatever ends this early leaves nothing behind under a shard's name.

        Args:
            batches: Together the samples of ``spec``, in order.
            environment: What pixels depend on beside the recipe; kept in the table.

        Raises:
            DataError: If something cannot be written.
        """
        if self._facts(spec) is not None:
            return
        shard = self.pack_shard(spec, batches, environment)
        atomic.commit(  # under a lock: a table never meets the tar of another environment
            self.folder / spec.table,
            shard.table,
            self.folder / spec.name,
            shard.archive,
            lock=self.folder / RECIPE,
        )

    def pack_shard(self, spec: ShardSpec, batches: Iterable[Batch], environment: Mapping[str, Any]) -> "PackedShard":
        """Encode the samples of a shard and leave it in memory; arguments as of ``write_shard``."""
        samples = _joined(list(self._encoded(spec, batches)))
        members = self._layout.members
        archive = tar.pack(tar.member_names(spec.first, spec.count, members), samples.contents)
        sizes = np.fromiter(map(len, samples.contents), np.int64, len(samples.contents))
        offsets = tar.data_offsets(sizes)

        def by_member(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
            return {member: values[place :: len(members)] for place, member in enumerate(members)}

        table = ShardTable(
            facts=ShardFacts(sha256(archive).hexdigest(), len(archive), environment, self._licence),
            keys=spec.keys,
            labels=samples.labels,
            offsets=by_member(offsets),
            sizes=by_member(sizes),
            digests=by_member(samples.digests),
            columns=samples.columns,
        )
        return PackedShard(table.facts, table_bytes(table), archive)

    def replace_shard(self, spec: ShardSpec, shard: "PackedShard") -> bool:
        """Put a shard in the place of a broken or missing one; a file that is as it should be is left alone.

        Returns:
            Whether any was not.

        Raises:
            DataError: If something cannot be written.
        """
        files: dict[Location, bytes | memoryview] = {
            self.folder / spec.table: shard.table,
            self.folder / spec.name: shard.archive,
        }
        wrong = [path for path, content in files.items() if not _holds(path, content)]
        for path in wrong:
            atomic.write(path, files[path])
        return bool(wrong)

    def finish(self) -> Manifest:
        """Write what describes the finished set, its manifest last; one that is there already stays as it is.

        Raises:
            DataError: If a shard is missing or something cannot be written.
        """
        facts = {spec: fact for spec, fact in self._all_facts().items() if fact is not None}
        missing = [spec.name for spec in self._plan if spec not in facts]
        if missing:
            raise DataError(
                f"{self.folder} lacks {len(missing)} of {len(self._plan)} shards, first {missing[0]}: "
                "run the same command to continue"
            )
        manifest = build_manifest(self.recipe, facts)
        is_new = not _holds(self.folder / MANIFEST, manifest_bytes(manifest))
        if is_new:  # else somebody may have written a better one
            atomic.write(self.folder / README, readme_bytes(manifest))
        if is_new or not _holds(self.folder / WIDS_INDEX, wids_bytes(manifest)):
            atomic.write(self.folder / WIDS_INDEX, wids_bytes(manifest))
        if is_new:
            atomic.write(self.folder / MANIFEST, manifest_bytes(manifest))  # last: its presence means finished
        return manifest

    def _all_facts(self) -> dict[ShardSpec, ShardFacts | None]:
        if isinstance(self.folder, Path):
            return {spec: self._facts(spec) for spec in self._plan}
        with ThreadPoolExecutor(REQUESTS) as pool:
            return dict(zip(self._plan, pool.map(self._facts, self._plan), strict=True))

    def _facts(self, spec: ShardSpec) -> ShardFacts | None:
        """What the table of a finished shard says; None if the shard is missing."""
        path = self.folder / spec.name
        with atomic.reported(path):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                return None
        facts = read_facts(self.folder / spec.table)
        if size != facts.tar_bytes:
            raise DataError(
                f"{path} has {size:,} bytes where its table says {facts.tar_bytes:,}, so it was damaged later: "
                "remove it and run the same command to make it again"
            )
        return facts

    def _encoded(self, spec: ShardSpec, batches: Iterable[Batch]) -> Iterator["_Encoded"]:
        position = spec.first

        def in_sequence() -> Iterator[Batch]:
            nonlocal position
            for batch in batches:
                if batch.first != position or batch.images.shape[2:] != self._layout.image_shape:
                    raise ValueError(
                        f"the batch of {batch.images.shape[2:]} images from sample {batch.first} on does not continue "
                        f"a shard of {self._layout.image_shape} images at sample {position}"
                    )
                position += len(batch)
                yield batch

        yield from ahead(lambda batch: _encode(batch, self._layout), in_sequence(), self._encode_workers)
        if position != spec.first + spec.count:
            raise ValueError(f"{spec.name} got {position - spec.first} of {spec.count} samples")


@dataclass(frozen=True)
class PackedShard:
    """A shard in memory: what its table says of it, the table's bytes and the tar's."""

    facts: ShardFacts
    table: bytes
    archive: memoryview


@dataclass(frozen=True)
class _Encoded:
    """B samples of M members: contents B * M in archive order, digests uint8 (B * M, 32), labels and columns (B,)."""

    contents: list[bytes]
    digests: NDArray[np.uint8]
    labels: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float32]]


def _encode(batch: Batch, layout: SetLayout) -> _Encoded:
    num_images = batch.images.shape[1]
    flat = batch.images.reshape(-1, *batch.images.shape[2:])
    images = encode(flat, format=layout.image_format, quality=layout.quality, subsampling=layout.subsampling)
    contents = []
    for row, facts in enumerate(described(batch.latents, batch.labels, batch.meta)):
        contents += images[row * num_images : (row + 1) * num_images]
        contents += facts
    digests = b"".join([sha256(content).digest() for content in contents])
    return _Encoded(contents, np.frombuffer(digests, np.uint8).reshape(-1, 32), batch.labels, batch.columns)


def described(
    latents: NDArray[np.float32], labels: NDArray[np.int64], meta: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The members of B samples that are no images: ``latents.npy``, ``cls`` and ``json``."""
    latents = latents.astype("<f4", copy=False)
    header = npy_header(latents.shape[1:])
    for rows, label, description in zip(latents, labels.tolist(), meta, strict=True):
        yield header + rows.tobytes(), b"%d" % label, meta_bytes(description)


def _holds(path: Location, content: bytes | memoryview) -> bool:
    """Whether a file is there, in its own right, with this content."""
    is_link = isinstance(path, Path) and path.is_symlink()
    with atomic.reported(path):
        return not is_link and path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _joined(parts: Sequence[_Encoded]) -> _Encoded:
    return _Encoded(
        contents=[content for part in parts for content in part.contents],
        digests=np.concatenate([part.digests for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )


def _claim(folder: Location, recipe: Mapping[str, Any]) -> None:
    """Make the folder and its recipe, or see that they are this one's."""
    path = folder / RECIPE
    with atomic.reported(folder):
        is_new = isinstance(folder, Path) and not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        is_claimed = path.exists()  # asked after the listing: what another process made since is no stranger
    if not is_claimed:
        if strangers:
            raise DataError(f"{folder} holds {strangers[0]} and no {RECIPE}: choose a new or an empty folder")
        try:
            atomic.create(path, json_bytes(recipe))
        except DataError:
            if is_new and isinstance(folder, Path):
                with suppress(OSError):  # not empty any more: another process goes on here
                    folder.rmdir()
            raise
    differences = recipe_differences(read_recipe(folder), recipe)
    if differences:
        told = "; ".join(f"{field} is {theirs} there and {ours} here" for field, theirs, ours in differences[:8])
        more = f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
        raise DataError(f"{folder} holds another set: {told}{more}: choose another folder, or ask for the same set")
    tables = folder / TABLES
    if isinstance(tables, Path) and tables.is_symlink():
        raise DataError(f"{tables} is a link, and nothing is written through it: put a folder there")
    with atomic.reported(tables):
        tables.mkdir(exist_ok=True)
    atomic.remove_stale(folder)
    atomic.remove_stale(tables)
