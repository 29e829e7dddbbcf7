"""A finished set as a dataset: any sample by its position, from memory-mapped tars, those of a store in a cache."""

import mmap
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from threading import BoundedSemaphore, Lock, Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from genrep.shards.codec import decode_into
from genrep.shards.errors import DataError
from genrep.shards.layout import MANIFEST, ShardSpec, key, layout_of
from genrep.shards.location import Location, RemotePath, location
from genrep.shards.manifest import read_manifest, read_recipe
from genrep.shards.npy import latents_of
from genrep.shards.sample import Sample, parse_meta
from genrep.shards.subset import named
from genrep.shards.table import ShardTable, read_table
from genrep.shards.tar import BLOCK

FETCHERS = 8  # downloads at a time
MAX_MAPPED = 128  # tars mapped at once: each takes one of the thousand or so descriptors that a process may have

Value = TypeVar("Value")
Place = str | PathLike[str] | RemotePath


def open(folder: Place, *, join: Place | None = None) -> "ShardDataset":
    """Open a finished set, or a subset of one, for random access.

    Args:
        folder: Where it lies, a path or a URL such as ``s3://bucket/set``, some of its shards as in
            ``DIR/shard-{000000..000009}.tar``, or the file of a subset; tars of a store are
            fetched as a whole when a sample of theirs is first asked for, checked, and kept in a cache of bounded size
            (``cache.py``).
        join: Where views that were added to this set lie.

    Raises:
        DataError: If there is no set, if it is unfinished, if a shard is missing or has another size (of a store: when
            it is fetched), or if what is to be joined was made for another set.
    """
    if join is None:
        return ShardDataset(folder)
    from genrep.shards.join import JoinedDataset

    return JoinedDataset(folder, join)


def read(folder: Place, *, join: Place | None = None) -> Iterator[Sample]:
    """All samples of a finished set in order; arguments and errors as of ``open``, at once."""
    return iter(open(folder, join=join))


class ShardDataset:
    """N samples by position 0 to N-1: a torch-style dataset that can be pickled and read from several threads.

    Tables and tars are opened when a sample of theirs is first asked for.

    Attributes:
        folder: Where the set lies; of a subset, its parent.
        manifest: Of the set; of a subset, its parent's.
        recipe: Of the set, as in ``recipe.json``; of a subset with ``subset`` beside, its ranges.
        has_anchors: Not for views that were added to a parent: those are read joined to it.
        num_views: Views beside the anchor, K.
        image_shape: Height and width (H, W).
        channels: Of the stored images, 1 or 3.
        member_names: Members of every sample in archive order.
        shard_counts: Samples in each shard; of a subset, those that it names.
    """

    def __init__(self, folder: Place) -> None:
        self._path = location(folder)
        subset = named(self._path)
        self.folder: Location = self._path if subset is None else subset.folder
        check_finished(self.folder)
        self.manifest = read_manifest(self.folder)
        self.recipe = self.manifest.recipe
        layout = layout_of(self.recipe)
        self.has_anchors = layout.image_numbers.start == 0
        self.num_views = layout.num_images - self.has_anchors
        height, width, self.channels = layout.image_shape
        self.image_shape = height, width
        self.member_names = self._stored_names = layout.members
        self._shards = layout.shards
        self._starts = [shard.first for shard in self._shards]
        self._chosen: NDArray[np.int64] | None = None
        self.shard_counts = [shard.count for shard in self._shards]
        if subset is not None:
            self._chosen = subset.indices
            self.recipe = {**self.recipe, "subset": [[part.start, part.stop - 1] for part in subset.ranges]}
            places = np.searchsorted(self._chosen, [*self._starts, layout.num_samples])
            self.shard_counts = [count for count in np.diff(places).tolist() if count]
        self._places: dict[int, NDArray[np.int64]] = {}  # shard -> (S, M, 2), offset and size of each member
        self._archives: dict[int, tuple[Path, memoryview]] = {}  # shard -> the file that is mapped, and its bytes
        self._opening = Lock()
        self._fetching: set[int] = set()
        self._fetchers = BoundedSemaphore(FETCHERS)
        for entry in self.manifest.shards:
            tar = self.folder / entry.name
            if isinstance(tar, Path):
                _check_size(tar, entry.bytes)

    def __len__(self) -> int:
        return self.manifest.num_samples if self._chosen is None else len(self._chosen)

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Sample:
        """One sample, decoded.

        Raises:
            DataError: If a member of it is damaged.
        """
        index = self.index(position)
        members = self._members(index, None)
        images = np.empty((self.num_images, *self.image_shape, 3), np.uint8)

        def parsed(member: str, parse: Callable[[memoryview], Value]) -> Value:
            try:
                return parse(members[member])
            except DataError as error:
                raise self.damage(position, member, str(error)) from error
            except (ValueError, RecursionError) as error:
                raise self.damage(position, member, f"cannot be read ({error})") from error

        for member, image in zip(self.member_names, images, strict=False):  # the image members come first
            parsed(member, partial(decode_into, out=image))
        return Sample(
            index=index,
            images=images,
            latents=parsed("latents.npy", partial(latents_of, num_images=len(images))).copy(),
            label=parsed("cls", lambda content: int(bytes(content))),
            meta=parsed("json", parse_meta),
        )

    def images_into(self, positions: Sequence[int], numbers: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Decode images of B samples.

        Args:
            positions: Of the samples.
            numbers: (R, B), which images of each: 0 the anchor, k view k.
            out: uint8 (R, B, H, W, C), each image C-contiguous.

        Raises:
            DataError: If one is damaged.
        """
        for position, own, images in zip(positions, numbers.T.tolist(), out.swapaxes(0, 1), strict=True):
            names = [self.member_names[number] for number in own]
            members = self.members(position, names)
            for name, image in zip(names, images, strict=True):
                try:
                    decode_into(members[name], image)
                except DataError as error:
                    raise self.damage(position, name, str(error)) from error

    def latents(self, position: int) -> NDArray[np.float32]:
        """float32 (V, D) of one sample, a row an image; row 0 is the anchor's if the set has anchors.

        Raises:
            DataError: If they are damaged.
        """
        try:
            return latents_of(self.members(position, ["latents.npy"])["latents.npy"], num_images=self.num_images)
        except DataError as error:
            raise self.damage(position, "latents.npy", str(error)) from error

    def __reduce__(self) -> tuple[Any, ...]:  # another process maps the tars itself
        return ShardDataset, (self._path,)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """int64 (N,), -1 where there is none; from the tables, no tar is read."""
        labels = np.concatenate([self._table(shard, "labels").labels for shard in self._shards])
        return labels if self._chosen is None else labels[self._chosen]

    @property
    def num_images(self) -> int:
        """Images of a sample: its views and, if it has one, its anchor."""
        return self.has_anchors + self.num_views

    @property
    def indices(self) -> NDArray[np.int64]:
        """Sample indices (N,), ascending."""
        return np.arange(len(self)) if self._chosen is None else self._chosen

    def index(self, position: int) -> int:
        """Sample index at a position, which may count from the end; IndexError ends a loop over the dataset."""
        position = operator.index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} in a set of {len(self)} samples")
        position %= len(self)
        return position if self._chosen is None else int(self._chosen[position])

    def members(self, position: int, names: Sequence[str] | None = None) -> dict[str, memoryview]:
        """Encoded members of one sample, without a copy.

        Args:
            names: Those of ``member_names`` that are wanted; all by default.

        Raises:
            DataError: If the tar holds another member where its table says that one of these is.
        """
        return self._members(self.index(position), names)

    def damage(self, position: int, member: str, what: str) -> DataError:
        """The error for a member that is not as it should be."""
        return self._damage(self.index(position), member, what)

    def _members(self, index: int, names: Sequence[str] | None) -> dict[str, memoryview]:
        number = bisect_right(self._starts, index) - 1
        places = self._shard_places(number)[index - self._starts[number]].tolist()
        archive = self._archive(number)
        found = {}
        for member, (offset, size) in zip(self._stored_names, places, strict=True):
            if names is not None and member not in names:
                continue
            name = f"{key(index)}.{member}".encode()
            header = archive[offset - BLOCK : offset]
            if header[: len(name) + 1] != name + b"\0" or header[124:135] != b"%011o" % size:
                raise self._damage(index, member, "is not where the table of the shard says")
            found[member] = archive[offset : offset + size]
        return found

    def prefetch(self, positions: Sequence[int]) -> None:
        """Begin to fetch the tars of these samples, several at a time, if they lie in a store; returns at once.

        What goes wrong there is raised where a sample is asked for.
        """
        if isinstance(self.folder, Path):
            return
        wanted = {bisect_right(self._starts, self.index(position)) - 1 for position in positions}
        for number in sorted(wanted - self._archives.keys() - self._fetching):
            self._fetching.add(number)
            Thread(target=self._fetch, args=(number,), name="genrep-fetch", daemon=True).start()

    def _fetch(self, number: int) -> None:
        with self._fetchers, suppress(DataError):
            self._archive(number)
        self._fetching.discard(number)

    def _table(self, shard: ShardSpec, *parts: str) -> ShardTable:
        path = self.folder / shard.table
        return read_table(path, members=self._stored_names, num_samples=shard.count, parts=parts)

    def _shard_places(self, number: int) -> NDArray[np.int64]:
        places = self._places.get(number)
        if places is None:
            table = self._table(self._shards[number], "offsets", "sizes")
            offsets, sizes = (
                np.stack([by_member[member] for member in self._stored_names], axis=1)
                for by_member in (table.offsets, table.sizes)
            )
            end = self.manifest.shards[number].bytes
            if not ((offsets >= BLOCK) & (sizes >= 0) & (sizes <= end) & (offsets <= end - sizes)).all():
                path = self.folder / self._shards[number].table
                raise DataError(f"{path} places members outside of its tar: {self._remedy}")
            self._places[number] = places = np.stack([offsets, sizes], axis=2)
        return places

    def _archive(self, number: int) -> memoryview:
        known = self._archives.get(number)
        if known is not None:
            return known[1]
        entry = self.manifest.shards[number]
        path = self.folder / entry.name
        if isinstance(path, RemotePath):
            from genrep.shards.cache import fetched

            path = fetched(path, digest=entry.sha256, size=entry.bytes)
        with self._opening:
            if isinstance(self.folder, RemotePath):  # what made room in the cache takes none while mapped
                self._archives = {n: known for n, known in self._archives.items() if known[0].exists()}
            while len(self._archives) >= MAX_MAPPED:  # members handed out keep their tar mapped
                del self._archives[next(iter(self._archives))]
            archive = _mapped(path, entry.bytes)
            self._archives[number] = path, archive
        return archive

    @property
    def _remedy(self) -> str:
        return f"genrep-shards verify {self.folder} lists all damage"

    def _damage(self, index: int, member: str, what: str) -> DataError:
        shard = self._shards[bisect_right(self._starts, index) - 1].name
        return DataError(f"{self.folder / shard}: member {key(index)}.{member} {what}; {self._remedy}")


def check_finished(folder: Location) -> None:
    """Raises DataError for a folder without a set, and for an unfinished set one that says how far it is."""
    recipe = read_recipe(folder)
    if (folder / MANIFEST).exists():
        return
    shards = layout_of(recipe).shards
    there = sum((folder / shard.name).exists() for shard in shards)
    command = "genrep-shards import" if recipe.get("kind") == "imported" else "genrep-generate"
    if recipe.get("segments"):
        command = "genrep-shards extend"
    raise DataError(
        f"{folder} is not finished: {there} of {len(shards)} shards are there and no {MANIFEST}; "
        f"the {command} command that began it, run again, continues it"
    )


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} is missing ({error.strerror}): {_GET_AGAIN}") from error
    if found != expected:
        what = "is truncated" if found < expected else "is too long"
        raise DataError(f"{path} {what}, {found:,} bytes where the manifest says {expected:,}: {_GET_AGAIN}")


_GET_AGAIN = "get it again, or remove it and run the command that made the set"


def _mapped(path: Path, expected: int) -> memoryview:
    _check_size(path, expected)  # it may have changed since the set was opened
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): make it readable") from error
