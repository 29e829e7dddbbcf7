"""Tars of remote sets on this machine: fetched when they are first read, checked, and never more than so many bytes."""

import errno
import mmap
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.shards.location import RemotePath

FOLDER_VARIABLE, SIZE_VARIABLE = "GENREP_CACHE", "GENREP_CACHE_GB"
DEFAULT_GB = 32.0
PAUSES = (0.5, 2.0, 8.0)  # seconds before a broken download is begun again
_CHUNK = 2**20
_locks: defaultdict[str, Lock] = defaultdict(Lock)  # one a tar: two threads never fetch the same one


def fetched(tar: RemotePath, *, digest: str, size: int) -> Path:
    """The tar as a file of this machine, whose bytes have this sha256.

    Files are named by their hash, so they never go stale, and may be shared between sets and processes. The least
    recently used ones make room for new ones: together they take at most ``GENREP_CACHE_GB`` gigabytes (32) in the
    folder ``GENREP_CACHE`` (``~/.cache/genrep``). A file that makes room while it is mapped stays readable.

    Raises:
        DataError: If it cannot be fetched, is another file than that, or is larger than the cache.
    """
    folder = cache_folder()
    path = folder / f"{digest}.tar"
    with _locks[digest]:
        if not _used(path, size):
            with _room(path, size) as temporary:
                _download(tar, temporary, digest=digest, size=size)
                atomic.put_in_place(temporary, path)
    return path


def mapped_copy(tar: RemotePath) -> memoryview:
    """The bytes of a tar as it lies there now; the copy on this machine has no name and goes when they are let go.

    Raises:
        OSError: If it cannot be fetched, or is empty.
    """
    with tempfile.TemporaryFile(dir=cache_folder()) as file:
        with tar.open() as source:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
        file.flush()
        if not file.tell():
            raise OSError(errno.EIO, "is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def cache_folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genrep"
    folder = Path(os.environ.get(FOLDER_VARIABLE) or default)
    with atomic.reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_bytes() -> int:
    text = os.environ.get(SIZE_VARIABLE, str(DEFAULT_GB))
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{SIZE_VARIABLE} is {text!r}: set it to a number of gigabytes") from error


def _used(path: Path, size: int) -> bool:
    """Whether the file is there; then it is the most recently used one."""
    try:
        os.utime(path)
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


@contextmanager
def _room(path: Path, size: int) -> Iterator[Path]:
    """A temporary file of that size in the cache, made room for; removed at the end unless it was renamed.

    It has its full size from the beginning, so it counts for others that look for room.
    """
    limit, folder = cache_bytes(), path.parent
    if size > limit:
        raise DataError(
            f"a shard of {size:,} bytes does not fit in the cache {folder} of {limit:,}: raise {SIZE_VARIABLE}"
        )
    lock, temporary = folder / "lock", atomic.temporary(path)
    with atomic.reported(lock):
        lock.touch()
    try:
        while not _reserved(temporary, size, limit, lock):
            time.sleep(0.05)  # other downloads fill the cache: theirs can go once they are done
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def _reserved(temporary: Path, size: int, limit: int, lock: Path) -> bool:
    folder = lock.parent
    with atomic.locked(lock):
        atomic.remove_stale(folder)
        files = []
        for file in folder.iterdir():
            with suppress(FileNotFoundError):
                files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
        total = sum(bytes for _, bytes, _ in files)
        for _, bytes, file in sorted(files):
            if total + size <= limit:
                break
            if file.suffix == ".tar":
                file.unlink(missing_ok=True)
                total -= bytes
        if total + size > limit:
            return False
        with atomic.reported(temporary), temporary.open("xb") as new:
            new.truncate(size)
    return True


def _download(tar: RemotePath, temporary: Path, *, digest: str, size: int) -> None:
    for pause in (*PAUSES, None):
        try:
            found, num_bytes = _copy(tar, temporary, size)
        except FileNotFoundError as error:
            raise DataError(f"{tar} is missing: get the set again") from error
        except OSError as error:
            if pause is None or error.errno in (errno.EACCES, errno.EPERM):
                raise DataError(f"{tar} cannot be read ({error.strerror}): check rights and connection") from error
            time.sleep(pause)
        else:
            break
    if num_bytes != size:
        what = "is truncated" if num_bytes < size else "is too long"
        raise DataError(f"{tar} {what}, {num_bytes:,} bytes where the manifest says {size:,}: get the set again")
    if found != digest:
        raise DataError(f"{tar} has another sha256 than the manifest says: get the set again")


def _copy(tar: RemotePath, temporary: Path, size: int) -> tuple[str, int]:
    """Sha256 and number of the bytes copied, which are at most one more than ``size``."""
    hasher, num_bytes = sha256(), 0
    with tar.open() as source, temporary.open("r+b") as copy:
        while num_bytes <= size and (chunk := source.read(min(_CHUNK, size + 1 - num_bytes))):
            hasher.update(chunk)
            with atomic.reported(temporary):
                copy.write(chunk)
            num_bytes += len(chunk)
    return hasher.hexdigest(), num_bytes
