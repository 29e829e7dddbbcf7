"""Where a set lies: a folder of this machine, or a URL that fsspec knows. Both are used like paths."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, TypeAlias

from genrep.shards.errors import DataError

# an upload there is seen as a whole or not at all; elsewhere a file gets its name when it is complete
_WHOLE_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf", "memory"}
_WITHOUT_LISTING = {"http", "https"}
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "abfs": "adlfs"}
_PACKAGES |= dict.fromkeys(_WITHOUT_LISTING, "aiohttp")


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder in a store, used like a ``Path``: the part of its methods that sets need.

    Credentials and addresses come from where the store's own package looks for them (environment, configuration).
    Whatever fails raises OSError with its reason, whichever package it came from.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url.rpartition("/")[0])

    def resolve(self) -> "RemotePath":
        return self

    def is_dir(self) -> bool:
        """True: a store has no folders, so any may hold a set."""
        return True

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a store has no folders."""

    def exists(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    is_file = exists

    def stat(self) -> "RemoteStat":
        with self._file_system() as (store, path):
            size = store.info(path)["size"]
            if not isinstance(size, int):
                raise OSError(errno.EIO, "the server does not tell its size")
            return RemoteStat(size)

    @contextmanager
    def open(self, mode: str = "rb") -> Iterator["RemoteFile"]:
        """For reading, as a stream."""
        assert mode == "rb"
        with self._file_system() as (store, path):
            file = store.open(path, "rb")
        with file:
            yield RemoteFile(file, self.url)

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    def iterdir(self) -> Iterator["RemotePath"]:
        """What lies in the folder; nothing if it is empty or cannot be listed (http)."""
        with self._file_system() as (store, path):
            names: list[str] = []
            if self._protocol not in _WITHOUT_LISTING:
                with suppress(FileNotFoundError):
                    names = [name.rstrip("/").rpartition("/")[2] for name in store.ls(path, detail=False)]
        return (self / name for name in names)

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        return (path for path in self.iterdir() if fnmatch(path.name, pattern))

    def put(self, content: bytes | memoryview) -> None:
        """Make or replace the file: as a whole, or not at all."""
        with self._file_system() as (store, path):
            if self._protocol in _WITHOUT_LISTING:
                raise OSError(errno.EROFS, "http is read only")
            if self._protocol in _WHOLE_OBJECT_STORES:
                store.pipe_file(path, bytes(content))
                return
            folder, _, name = path.rpartition("/")
            temporary = f"{folder}/.{name}.tmp-{uuid.uuid4().hex}"
            store.makedirs(folder, exist_ok=True)
            try:
                store.pipe_file(temporary, bytes(content))
                store.mv(temporary, path)
            except BaseException:
                with suppress(Exception):  # never made, or renamed; what ended this says more
                    store.rm_file(temporary)
                raise

    def put_new(self, content: bytes | memoryview) -> None:
        """Make the file; where the store can promise it, exactly one of several processes does.

        Raises:
            FileExistsError: If it is there.
        """
        if self.exists():
            raise FileExistsError(errno.EEXIST, "exists", self.url)
        if self._protocol in _WHOLE_OBJECT_STORES:
            try:
                with self._file_system() as (store, path):
                    store.pipe_file(path, bytes(content), mode="create")
                return
            except FileExistsError:
                raise
            except OSError:  # a store without conditional writes, or a fault that the next line meets as well
                pass
        self.put(content)

    @property
    def _protocol(self) -> str:
        return self.url.partition("://")[0]

    @contextmanager
    def _file_system(self) -> Iterator[tuple[Any, str]]:
        """The store and the path in it; within, every failure becomes an OSError with number and reason."""
        from fsspec.core import url_to_fs

        with _os_errors(self.url):
            try:
                # other processes write there too: a listing that is remembered would be wrong
                store, path = url_to_fs(self.url, use_listings_cache=False)
            except ImportError as error:
                package = _PACKAGES.get(self._protocol, "that fsspec names for it")
                raise DataError(f"{self.url} needs the package {package}: install it with pip") from error
            except ValueError as error:
                raise DataError(f"{self.url} is no address that can be used ({_one_line(error)})") from error
            yield store, path


@dataclass(frozen=True)
class RemoteFile:
    """A file that is being read."""

    stream: IO[bytes]
    url: str

    def read(self, size: int = -1) -> bytes:
        with _os_errors(self.url):
            return self.stream.read(size)


@dataclass(frozen=True)
class RemoteStat:
    """As ``os.stat_result``, as far as a store tells."""

    st_size: int


Location: TypeAlias = Path | RemotePath


def location(place: str | os.PathLike[str] | RemotePath) -> Location:
    """A folder or file by its path or URL."""
    if isinstance(place, RemotePath):
        return place
    text = os.fspath(place)
    if "://" not in text:
        return Path(text)
    return Path(text.removeprefix("file://")) if text.startswith("file://") else RemotePath(text.rstrip("/"))


@contextmanager
def _os_errors(url: str) -> Iterator[None]:
    """Within, whatever a store's package raises becomes an OSError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # botocore, aiohttp and others raise what they like
        raise OSError(_number(error), _one_line(error), url) from error


def _number(error: Exception) -> int:
    """The error number, of which OSError makes the right kind of itself."""
    kinds = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES, FileExistsError: errno.EEXIST}
    own = getattr(error, "errno", None)
    return own if isinstance(own, int) else next((n for kind, n in kinds.items() if isinstance(error, kind)), errno.EIO)


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
