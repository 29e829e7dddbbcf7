"""A set onto the Hugging Face Hub: file by file, the manifest last, and again only what is not there yet."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrep.shards.card import SHEET
from genrep.shards.croissant import CROISSANT
from genrep.shards.errors import DataError
from genrep.shards.layout import MANIFEST, README, RECIPE, WIDS_INDEX
from genrep.shards.location import Location
from genrep.shards.reader import ShardDataset

COMMIT_BYTES, COMMIT_FILES = 5 * 10**9, 100  # of one commit: what an interruption can cost


@dataclass(frozen=True)
class Upload:
    """A file of the set: its path in the folder and on the Hub, its size, and its sha256 where the manifest has it."""

    name: str
    bytes: int
    sha256: str | None


def uploads(dataset: ShardDataset) -> list[Upload]:
    """The files of a set in the order in which they go; other files in the folder stay at home.

    Raises:
        DataError: If the set lies in a store, or one of its files is missing.
    """
    folder = _local(dataset.folder)
    digests = {entry.name: entry.sha256 for entry in dataset.manifest.shards}
    tables = [f".tables/{name.removesuffix('.tar')}.parquet" for name in digests]
    pairs = [name for pair in zip(tables, digests, strict=True) for name in pair]
    extras = [name for name in (SHEET, CROISSANT) if (folder / name).exists()]
    names = [RECIPE, *pairs, *extras, WIDS_INDEX, README, MANIFEST]
    try:
        return [Upload(name, (folder / name).stat().st_size, digests.get(name)) for name in names]
    except OSError as error:
        raise DataError(f"{error.filename} is missing: genrep-shards verify {folder} lists all damage") from error


def push(
    dataset: ShardDataset,
    repository: str,
    *,
    private: bool = False,
    api: Any = None,
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """Send what the repository lacks, in commits of bounded size; the manifest goes alone and last.

    What an interrupted run committed is not sent again: the Hub tells the hashes of the files it has.

    Args:
        repository: ``user/name`` of a dataset repository; made if it is missing.
        api: Of ``huggingface_hub.HfApi``; by default one that is logged in as the user is.
        progress: Called with the bytes that are there, and all.

    Returns:
        Number of files sent.

    Raises:
        DataError: If the package is missing, the Hub refuses, or the set lies in a store.
    """
    folder = _local(dataset.folder)
    files = uploads(dataset)
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise DataError("push needs the package huggingface_hub: install it with pip") from error
    total = sum(file.bytes for file in files)
    try:
        api = api or HfApi()
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        there = {
            entry.path: entry
            for entry in api.list_repo_tree(repository, repo_type="dataset", recursive=True)
            if hasattr(entry, "blob_id")
        }
        missing = [file for file in files if not _is_there(file, there.get(file.name), folder)]
        done = total - sum(file.bytes for file in missing)
        for batch in _batches(missing):
            if progress:
                progress(done, total)
            api.create_commit(
                repository,
                repo_type="dataset",
                operations=[CommitOperationAdd(file.name, str(folder / file.name)) for file in batch],
                commit_message=f"Add {batch[0].name}" + (f" to {batch[-1].name}" if len(batch) > 1 else ""),
            )
            done += sum(file.bytes for file in batch)
        if progress:
            progress(done, total)
    except (OSError, ValueError) as error:  # those of the Hub, of the network, and of names that it does not take
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{repository}: the Hub refused ({reason}): log in with hf auth login, check the name, and run the same "
            "command to continue"
        ) from error
    return len(missing)


def _batches(files: list[Upload]) -> Iterator[list[Upload]]:
    batch: list[Upload] = []
    for file in files:
        is_full = len(batch) == COMMIT_FILES or sum(other.bytes for other in batch) + file.bytes > COMMIT_BYTES
        if batch and (is_full or file.name == MANIFEST):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _is_there(file: Upload, entry: Any, folder: Path) -> bool:
    """Whether the Hub has these bytes: it knows large files by their sha256, others as git does."""
    if entry is None or entry.size != file.bytes:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == (file.sha256 or _hash(folder / file.name, hashlib.sha256()))
    return entry.blob_id == _hash(folder / file.name, hashlib.sha1(b"blob %d\0" % file.bytes))


def _hash(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _local(folder: Location) -> Path:
    if not isinstance(folder, Path):
        raise DataError(f"{folder} is a URL: push takes a folder of this machine")
    return folder
