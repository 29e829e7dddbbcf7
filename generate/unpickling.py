"""Weights from other people's pickles, read by a machine that knows data only and calls nothing the file names.

A pickle is a program. Python's own loader imports and calls whatever it asks for; this one holds a global as two
strings and looks the pair up in ``CALLS``, a table of our own functions. What is not in the table ends the reading.
Module objects become inert :class:`Record`; source code stored beside them is passed over.

Memory is bounded by a small multiple of the file: every length is compared with what is left of it before anything
is allocated, what calls copy is charged against its size, and the number of operations is capped.
"""

import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor, nn

from genrep.generate.pickle_machine import Machine, Source
from genrep.generate.pickled import Budget, Record, RefusedError, Storage, no_persistent_id, storage_id
from genrep.shards.errors import DataError

MAX_DEPTH = 64  # of modules inside modules

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of torch's format before 1.6


def load_tensors(path: Path) -> Any:
    """Read weights as tensors, arrays, containers, numbers, text and :class:`Record`.

    Takes safetensors, torch files (zip and the legacy format) and plain pickles, those of NVIDIA's StyleGAN2
    included. Nothing the file names is imported or called.

    Raises:
        DataError: If the file asks for anything else, or is damaged.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _load_zip(file) if is_zip else _load_stream(file, depth=0)
    except RefusedError as error:
        raise DataError(
            f"{path}: {error}; nothing in the file was executed. If you trust it, load it where it was made and save "
            "its plain state dict"
        ) from error
    except (OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise DataError(f"{path}: the file of weights is damaged or of another format ({_one_line(error)})") from error
    except (RuntimeError, MemoryError, zipfile.BadZipFile, struct.error) as error:
        raise DataError(f"{path}: the file of weights is damaged or of another format ({_one_line(error)})") from error


def module_tensors(record: Record) -> dict[str, Tensor]:
    """The state dict of a module's record: its parameters and buffers, and those of the modules inside it."""
    return dict(_walk(record, "", depth=0, seen=set()))


def _walk(record: Record, prefix: str, *, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if depth > MAX_DEPTH or id(record) in seen:
        raise DataError(f"module {prefix or record.name} holds itself, is held twice or more than {MAX_DEPTH} deep")
    seen.add(id(record))
    for group in ("_parameters", "_buffers"):
        for name, value in _mapping(record.state.get(group)).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, value in _mapping(record.state.get("_modules")).items():
        if isinstance(value, Record):
            yield from _walk(value, f"{prefix}{name}.", depth=depth + 1, seen=seen)


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def load_strictly(network: nn.Module, state: Any, *, source: str) -> None:
    """Give ``network`` the tensors of a state dict, in float32: every one it has, no other, of equal shape.

    Raises:
        DataError: Naming ``source`` and what differs.
    """
    expected = network.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{source}: a state dict (names and tensors) is expected")
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in expected]
    faults += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DataError(f"{source}: not the weights of this network: {', '.join(faults[:3])}{more}")
    network.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, assign=True
    )


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _load_zip(file: BinaryIO) -> Any:
    """torch's format since 1.6: ``NAME/data.pkl`` and one uncompressed entry ``NAME/data/KEY`` per storage."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip archive without one data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("a torch archive holds its entries uncompressed")
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}byteorder" in entries and archive.open(f"{prefix}byteorder").read(6) != b"little":
            raise RefusedError("it was written on a big-endian machine")
        size = _size(file)
        budget = Budget(size)
        storages: dict[str, Storage] = {}

        def persistent(pid: Any) -> Storage:
            dtype, key, count = storage_id(pid)
            if key not in storages:
                storages[key] = storage = budget.storage(dtype, count)
                entry = entries[f"{prefix}data/{key}"]
                if entry.file_size != storage.num_bytes:
                    raise ValueError(f"storage {key} has {entry.file_size} bytes instead of {storage.num_bytes}")
                with archive.open(entry) as stream:
                    storage.fill(stream)
            return storages[key].checked(dtype)

        with archive.open(pickles[0]) as stream:
            source = Source(stream, min(entries[pickles[0]].file_size, size))
            return Machine(source, persistent, load_bytes=None).run()


def _load_stream(file: BinaryIO, *, depth: int) -> Any:
    """torch's legacy format, which begins with a magic number, or a plain pickle."""
    size = _size(file)
    source = Source(file, size - file.tell())

    def load_bytes(data: bytes) -> Any:  # tensors inside a plain pickle are small legacy files
        return _load_stream(io.BytesIO(data), depth=depth + 1)

    first = Machine(source, no_persistent_id, load_bytes if depth == 0 else None).run()
    if not (type(first) is int and first == _TORCH_MAGIC):
        return first
    for _ in range(2):  # protocol version; byte order and word sizes
        header = Machine(source, no_persistent_id, None).run()
        if isinstance(header, dict) and header.get("little_endian") is False:
            raise RefusedError("it was written on a big-endian machine")
    budget = Budget(size)
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and pid[:1] == ("module",):
            return pid[1]  # the class by name; pid[2:] is its source code
        dtype, key, count = storage_id(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise RefusedError("it shares parts of a storage in the manner of torch before 0.4")
        if key not in storages:
            storages[key] = budget.storage(dtype, count)
        return storages[key].checked(dtype)

    result = Machine(source, persistent, None).run()
    keys = Machine(source, no_persistent_id, None).run()
    if not isinstance(keys, list) or set(keys) != set(storages) or len(keys) != len(storages):
        raise ValueError("the list of storages does not match those in use")
    for key in keys:
        (count,) = struct.unpack("<q", source.read(8))
        if count != storages[key].count:
            raise ValueError(f"storage {key} has {count} elements instead of {storages[key].count}")
        storages[key].fill(source)
    return result


def _size(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end
