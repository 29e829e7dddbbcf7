"""Files that are whole or absent, whatever happens to the process, the disk or the rights to it."""

import errno
import fcntl
import itertools
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genrep.shards.errors import DataError
from genrep.shards.location import Location, RemotePath

_TEMPORARY = re.compile(r"\..+\.tmp-(?P<host>.+)-(?P<pid>[0-9]{1,9})-(?P<start>[0-9]+)-[0-9]+")  # as in staged
_serial = itertools.count()
_AGAIN = "then run the same command to continue"
_REMEDIES = {
    errno.ENOSPC: f"free some space, {_AGAIN}",
    errno.EDQUOT: f"free some of your quota, {_AGAIN}",
    errno.EFBIG: f"raise the file-size limit (ulimit -f), {_AGAIN}",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.EEXIST: "choose another folder",
    errno.ENOTDIR: "choose another folder",
}


@contextmanager
def reported(path: Location) -> Iterator[None]:
    """Turn a failure to write ``path`` into a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        place = "disk" if isinstance(path, Path) else "address, your rights and the connection"
        remedy = _REMEDIES.get(error.errno or 0, f"check the {place}, {_AGAIN}")
        raise DataError(f"{path} could not be written ({error.strerror or error}): {remedy}") from error


@contextmanager
def staged(path: Path, content: bytes | memoryview, *, synced: bool = True) -> Iterator[Path]:
    """Write a file, synced, under a temporary name beside ``path``; it is removed at the end unless it was renamed.

    Args:
        synced: Wait until the disk has it; without that a power cut may leave the name and not the bytes.

    Raises:
        DataError: If it cannot be written or synced.
    """
    with _temporary(path) as name:
        with reported(path):
            _write_new(name, content, synced=synced)
        yield name


@contextmanager
def being_written(path: Path) -> Iterator[Path]:
    """A temporary name to write a large file under; at the end it is synced and gets its own name.

    After an exception it is removed.

    Raises:
        DataError: If it cannot be written, within, or synced.
    """
    with _temporary(path) as name:
        with reported(path):
            yield name
            descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        put_in_place(name, path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    name = temporary(path)
    try:
        yield name
    finally:
        with suppress(OSError):  # renamed or never made; any exception on its way says more than this could
            os.unlink(name)


def temporary(path: Path) -> Path:
    """A name beside ``path`` that says which process may use it."""
    pid = os.getpid()
    return path.with_name(f".{path.name}.tmp-{_host()}-{pid}-{_start_time(pid)}-{next(_serial)}")


def put_in_place(staged_file: Path, path: Path, *, synced: bool = True) -> None:
    """Give a staged file its own name, replacing what bears it."""
    with reported(path):
        os.replace(staged_file, path)
        if synced:
            _sync_folder(path.parent)


def write(path: Location, content: bytes | memoryview, *, synced: bool = True) -> None:
    """Make or replace a file; ``synced`` as in ``staged``."""
    if isinstance(path, RemotePath):
        with reported(path):
            path.put(content)
        return
    with staged(path, content, synced=synced) as new:
        put_in_place(new, path, synced=synced)


def create(path: Location, content: bytes) -> None:
    """Make a file unless it exists; of several processes exactly one does it (of a store: if it can promise that)."""
    if isinstance(path, RemotePath):
        with reported(path), suppress(FileExistsError):
            path.put_new(content)
        return
    with staged(path, content) as new, reported(path):
        try:
            os.link(new, path)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            if not path.exists():  # a file system without links, such as FAT: all but exclusive
                os.replace(new, path)
        _sync_folder(path.parent)


def commit(
    attendant: Location, attendant_content: bytes, path: Location, content: memoryview, *, lock: Location
) -> None:
    """Make a file unless it exists, and before it another that describes it; the second name is the commit.

    Args:
        lock: A file that all who might make the two know. A store has no locks: of two processes that make the same
            file at the same moment both may write the attendant, and they must agree on its content.
    """
    if isinstance(path, RemotePath):
        with reported(path), suppress(FileExistsError):
            if not path.exists():
                write(attendant, attendant_content)
                path.put_new(content)
        return
    assert isinstance(attendant, Path)
    assert isinstance(lock, Path)
    with staged(attendant, attendant_content) as new_attendant, staged(path, content) as new, locked(lock):
        if not path.exists():
            put_in_place(new_attendant, attendant)
            put_in_place(new, path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep out every other process that locks this file; a dead process holds nothing."""
    with reported(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks: equal environments still write equal bytes
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with reported(path):
            os.close(descriptor)


def remove_stale(folder: Location) -> None:
    """Remove the temporary files in a folder whose process, on this host, is dead; stores have none."""
    if isinstance(folder, RemotePath):
        return
    with reported(folder):
        names = os.listdir(folder)
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        if match and match["host"] == _host() and not _is_alive(int(match["pid"]), match["start"]):
            with suppress(OSError):  # another process was faster, or it is another user's: it only costs space
                os.unlink(folder / name)


def _write_new(path: Path, content: bytes | memoryview, *, synced: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if synced:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a rename in it outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # as file systems answer that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _host() -> str:
    """Name of this machine and, since containers may share it, of the space its process numbers belong to."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        space = 0
    return re.sub(r"[^A-Za-z0-9.-]", "_", f"{socket.gethostname()}.{space}")


def _is_alive(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return _start_time(pid) in (start, "0")


def _start_time(pid: int) -> str:
    """Clock ticks from the start of the machine to that of the process; ``0`` where the system does not tell.

    Source: proc(5), /proc/PID/stat, fields 3 (state) and 22 (start time).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # not Linux, or hidden
        return "0"
    return "dead" if fields[0] in (b"Z", b"X") else fields[19].decode()
