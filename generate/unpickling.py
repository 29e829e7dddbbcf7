"""Weights from other people's pickles, read by a machine that knows data only and calls nothing the file names.

A pickle is a program. Python's own loader imports and calls whatever it asks for; this one holds a global as two
strings and looks the pair up in ``_CALLS``, a table of our own functions. What is not in the table ends the reading.
Module objects become inert :class:`Record`; source code stored beside them is passed over.

Memory is bounded by a small multiple of the file: every length is compared with what is left of it before anything
is allocated, what calls copy is charged against its size, and the number of operations is capped.
"""

import io
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from genrep.shards.errors import DataError

MAX_OPERATIONS = 1_000_000  # a training checkpoint of StyleGAN2 with its optimiser's state needs about 50,000
MAX_DEPTH = 64  # of modules inside modules
_MAX_LINE = 10_000  # bytes of a number or a name in the text opcodes

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of torch's format before 1.6


@dataclass
class Record:
    """What is left of an object: its class by name, the arguments it was made from, its state."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


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
    except _RefusedError as error:
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


class _RefusedError(Exception):
    """The file asks for something outside the table."""


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# ---------------------------------------------------------------------------------------------- file formats


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
            raise _RefusedError("it was written on a big-endian machine")
        size = _size(file)
        budget = _Budget(size)
        storages: dict[str, _Storage] = {}

        def persistent(pid: Any) -> _Storage:
            dtype, key, count = _storage_id(pid)
            if key not in storages:
                storages[key] = storage = budget.storage(dtype, count)
                entry = entries[f"{prefix}data/{key}"]
                if entry.file_size != storage.num_bytes:
                    raise ValueError(f"storage {key} has {entry.file_size} bytes instead of {storage.num_bytes}")
                with archive.open(entry) as stream:
                    storage.fill(stream)
            return storages[key].checked(dtype)

        with archive.open(pickles[0]) as stream:
            source = _Source(stream, min(entries[pickles[0]].file_size, size))
            return _Machine(source, persistent, load_bytes=None).run()


def _load_stream(file: BinaryIO, *, depth: int) -> Any:
    """torch's legacy format, which begins with a magic number, or a plain pickle."""
    size = _size(file)
    source = _Source(file, size - file.tell())

    def load_bytes(data: bytes) -> Any:  # tensors inside a plain pickle are small legacy files
        return _load_stream(io.BytesIO(data), depth=depth + 1)

    first = _Machine(source, _no_persistent_id, load_bytes if depth == 0 else None).run()
    if not (type(first) is int and first == _TORCH_MAGIC):
        return first
    for _ in range(2):  # protocol version; byte order and word sizes
        header = _Machine(source, _no_persistent_id, None).run()
        if isinstance(header, dict) and header.get("little_endian") is False:
            raise _RefusedError("it was written on a big-endian machine")
    budget = _Budget(size)
    storages: dict[str, _Storage] = {}

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and pid[:1] == ("module",):
            return pid[1]  # the class by name; pid[2:] is its source code
        dtype, key, count = _storage_id(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise _RefusedError("it shares parts of a storage in the manner of torch before 0.4")
        if key not in storages:
            storages[key] = budget.storage(dtype, count)
        return storages[key].checked(dtype)

    result = _Machine(source, persistent, None).run()
    keys = _Machine(source, _no_persistent_id, None).run()
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


class _Source:
    """A stream of known length: asking for more than is left fails before anything is allocated."""

    def __init__(self, stream: Any, left: int) -> None:
        self.stream = stream
        self.left = left

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise EOFError(f"{count} bytes wanted where {self.left} are left")
        data = self.stream.read(count)
        if len(data) != count:
            raise EOFError("the file ends in the middle")
        self.left -= count
        return data

    def readinto(self, buffer: memoryview) -> int:
        if len(buffer) > self.left:
            raise EOFError(f"{len(buffer)} bytes wanted where {self.left} are left")
        count = self.stream.readinto(buffer)
        self.left -= count
        return count

    def readline(self) -> bytes:
        line = self.stream.readline(min(_MAX_LINE, self.left))
        if not line.endswith(b"\n"):
            raise EOFError("a line of text without an end")
        self.left -= len(line)
        return line[:-1]


# ------------------------------------------------------------------------------------------ tensors and arrays

_STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Storage:
    """The elements that tensors are views of; legacy files fill them after the views are made."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.bytes = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
        self.dtype = dtype
        self.count = count
        self.num_bytes = len(self.bytes)

    def fill(self, stream: Any) -> None:
        if self.num_bytes and stream.readinto(self.bytes.numpy().data) != self.num_bytes:
            raise EOFError("a storage ends in the middle")

    def checked(self, dtype: torch.dtype) -> "_Storage":
        if dtype != self.dtype:
            raise ValueError(f"one storage is used as {self.dtype} and as {dtype}")
        return self

    def view(self, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        if len(shape) != len(stride) or type(offset) is not int or offset < 0:
            raise ValueError("a tensor has a malformed shape")
        count = math.prod(shape)
        last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        if count and (count > self.count or last >= self.count):
            raise ValueError(f"a tensor of shape {shape} reaches outside its storage of {self.count} elements")
        return self.bytes.view(self.dtype).as_strided(shape, stride, offset if count else 0)


class _Budget:
    """All storages of a file together are no larger than the file."""

    def __init__(self, num_bytes: int) -> None:
        self.left = num_bytes

    def storage(self, dtype: torch.dtype, count: int) -> _Storage:
        if count * dtype.itemsize > self.left:
            raise ValueError(f"storages claim more than the file's {self.left} bytes left for them")
        self.left -= count * dtype.itemsize
        return _Storage(dtype, count)


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    """("storage", type, key, device, number of elements, ...) -> (dtype, key, number of elements)."""
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _Global)):
        raise _RefusedError("it refers to something that is no tensor storage")
    _, kind, key, _, count = pid[:5]
    if kind.module != "torch" or kind.name not in _STORAGE_TYPES:
        raise _RefusedError(f"it holds a storage of type {kind}")
    if type(key) is not str or type(count) is not int or count < 0:
        raise ValueError("a malformed reference to a storage")
    return _STORAGE_TYPES[kind.name], key, count


def _no_persistent_id(pid: Any) -> Any:
    raise _RefusedError("it refers to objects outside the file")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_ignored: Any) -> Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return storage.view(offset, _size_tuple(shape), _size_tuple(stride))


def _size_tuple(sides: Any = ()) -> tuple[int, ...]:
    if type(sides) not in (tuple, list) or len(sides) > 32 or any(type(n) is not int or n < 0 for n in sides):
        raise ValueError("a malformed shape")
    return tuple(sides)


def _parameter(data: Any, *_ignored: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter that is no tensor")
    return data


class _DType:
    """A NumPy element type; the pickle tells the byte order after it made the object."""

    def __init__(self, code: Any, *_ignored: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[biufc](1|2|4|8|16)", code)):
            raise _RefusedError(f"it holds a NumPy array of elements {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """(version, byte order, ...)"""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _element_type(value: Any) -> np.dtype[Any]:
    if not isinstance(value, _DType):
        raise ValueError("an array without an element type")
    return value.dtype


def _fill_array(array: np.ndarray[Any, Any], state: Any) -> None:
    """``numpy.ndarray.__setstate__`` with its arguments checked: (version, shape, type, column order?, bytes)."""
    _, shape, element, fortran, data = state
    shape, dtype = _size_tuple(shape), _element_type(element)
    if type(data) not in (bytes, bytearray) or len(data) != dtype.itemsize * math.prod(shape):
        raise ValueError("an array whose bytes do not fit its shape")
    checked: Any = (1, shape, dtype, bool(fortran), bytes(data))
    array.__setstate__(checked)


def _array_from_buffer(data: Any, element: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    array = np.ndarray((0,), np.uint8)
    _fill_array(array, (1, shape, element, order == "F", data))
    return array


def _scalar(element: Any, data: Any) -> Any:
    dtype = _element_type(element)
    if not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise ValueError("a malformed number")
    return np.frombuffer(data, dtype)[0]


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in items}


def _persistent_module(meta: Any) -> Record:
    """NVIDIA's ``torch_utils.persistence``: {"class_name", "state", "module_src": Python source, ...}."""
    state = meta["state"]
    if not isinstance(state, dict) or not isinstance(meta["class_name"], str):
        raise ValueError("a malformed persistent module")
    return Record(meta["class_name"], (), dict(state))


# --------------------------------------------------------------------------------------------- the allow-list


@dataclass(frozen=True)
class _Global:
    """Something the pickle names. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return ascii(f"{self.module}.{self.name}"[:80])[1:-1]


_NUMPY_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("builtins", "__builtin__")

# (module, name) -> the function of ours that stands in for it
_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("dnnlib.util", "EasyDict"): _ordered_dict,
    ("dnnlib", "EasyDict"): _ordered_dict,
    ("torch", "Size"): _size_tuple,
    ("torch", "device"): lambda kind, index=None: (kind, index),
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_module,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(module, "set"): lambda items=(): {_key(item) for item in items} for module in _BUILTINS},
    **{(module, "frozenset"): lambda items=(): frozenset(_key(item) for item in items) for module in _BUILTINS},
    **{(module, "bytearray"): lambda data=b"": bytearray(_bytes(data)) for module in _BUILTINS},
    **{(module, "bytes"): lambda: b"" for module in _BUILTINS},
    **{(module, "_reconstruct"): lambda *_ignored: np.ndarray((0,), np.uint8) for module in _NUMPY_MULTIARRAY},
    **{(module, "scalar"): _scalar for module in _NUMPY_MULTIARRAY},
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _array_from_buffer,
}

# classes of which a record is kept
_RECORDS = re.compile(r"torch\.nn\.modules\.\w+\.[A-Z]\w*|dnnlib\.tflib\.network\.Network|argparse\.Namespace")


def _bytes(data: Any) -> bytes:
    if type(data) is not bytes:  # bytearray(10**12) would allocate as much
        raise ValueError("a malformed bytearray")
    return data


def _key(value: Any) -> Any:
    """A dictionary key or set member: plain values and flat tuples of them, so that hashing ends."""
    plain = (str, int, float, bytes, bool, type(None), _Global)
    if type(value) in plain or (type(value) is tuple and all(type(part) in plain for part in value)):
        return value
    raise ValueError(f"a dictionary key of type {type(value).__name__}")


# ------------------------------------------------------------------------------------------------- the machine


class _Mark:
    pass


class _Machine:
    """Runs one pickle. ``persistent`` resolves storages; ``load_bytes`` reads a tensor nested as a legacy file."""

    def __init__(
        self, source: _Source, persistent: Callable[[Any], Any], load_bytes: Callable[[bytes], Any] | None
    ) -> None:
        self.source = source
        self.persistent = persistent
        self.load_bytes = load_bytes
        self.copies_left = 4 * source.left  # items and bytes that calls may copy
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            code = self.source.read(1)
            if code == pickle.STOP:
                (result,) = self.stack
                return result
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise _RefusedError(f"it uses pickle operation {code!r}")
            operation(self)
        raise _RefusedError(f"it runs for more than {MAX_OPERATIONS} operations")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _Mark:
            raise ValueError("a mark where a value is expected")
        return value

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _Mark:
            items.append(value)
        items.reverse()
        return items

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a {kind.__name__} expected, {type(self.stack[-1]).__name__} found")
        return self.stack[-1]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.source.read(size), "little")

    def line(self) -> str:
        return self.source.readline().decode("ascii")

    def sized(self, size: int) -> bytes:
        return self.source.read(self.unsigned(size))

    def charge(self, values: tuple[Any, ...]) -> None:
        """Without this, one long list handed to many calls would be copied as often."""
        sized = (str, bytes, bytearray, tuple, list, dict, set, frozenset)
        self.copies_left -= len(values) + sum(len(value) for value in values if type(value) in sized)
        if self.copies_left < 0:
            raise _RefusedError("it copies far more than it holds")

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise _RefusedError("it calls something that is no named function")
        self.charge(arguments)
        name = (function.module, function.name)
        if name in _CALLS:
            return _CALLS[name](*arguments)
        if name == ("torch.storage", "_load_from_bytes") and self.load_bytes is not None:
            storage = self.load_bytes(_bytes(*arguments))
            if not isinstance(storage, _Storage):
                raise _RefusedError("it holds a pickle inside a pickle that is no tensor")
            return storage
        if name in (("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")):
            return self.create(arguments[0], ())
        return self.create(function, arguments)

    def create(self, kind: Any, arguments: Any) -> Any:
        if not isinstance(kind, _Global) or type(arguments) is not tuple:
            raise _RefusedError("it makes an object of something that is no named class")
        self.charge(arguments)
        if (kind.module, kind.name) in _CALLS:
            return _CALLS[kind.module, kind.name](*arguments)
        name = f"{kind.module}.{kind.name}"
        if not _RECORDS.fullmatch(name):
            raise _RefusedError(f"it asks for {kind}, which is not among the things that weights are made of")
        return Record(name, arguments)

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state."""
        self.charge(state if type(state) is tuple else (state,))
        if type(target) is Record and type(state) is dict:
            target.state.update(state)
        elif type(target) is np.ndarray:
            _fill_array(target, state)
        elif type(target) is _DType:
            target.build(state)
        elif type(target) is not dict:  # a state dict's attribute _metadata is passed over
            raise _RefusedError(f"it sets the state of a {type(target).__name__}")


# one function for each operation of the pickle language that data need
_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {}


def _operation(*codes: bytes) -> Callable[[Callable[[_Machine], None]], Callable[[_Machine], None]]:
    def register(function: Callable[[_Machine], None]) -> Callable[[_Machine], None]:
        _OPERATIONS.update(dict.fromkeys(codes, function))
        return function

    return register


def _constant(code: bytes, make: Callable[[], Any]) -> None:
    _OPERATIONS[code] = lambda machine: machine.push(make())


def _reader(code: bytes, read: Callable[[_Machine], Any]) -> None:
    _OPERATIONS[code] = lambda machine: machine.push(read(machine))


_constant(pickle.NONE, lambda: None)
_constant(pickle.NEWTRUE, lambda: True)
_constant(pickle.NEWFALSE, lambda: False)
_constant(pickle.EMPTY_TUPLE, tuple)
_constant(pickle.EMPTY_LIST, list)
_constant(pickle.EMPTY_DICT, dict)
_constant(pickle.EMPTY_SET, set)
_constant(pickle.MARK, lambda: _Mark)

_reader(pickle.BININT, lambda m: int.from_bytes(m.source.read(4), "little", signed=True))
_reader(pickle.BININT1, lambda m: m.unsigned(1))
_reader(pickle.BININT2, lambda m: m.unsigned(2))
_reader(pickle.LONG1, lambda m: int.from_bytes(m.sized(1), "little", signed=True))
_reader(pickle.LONG, lambda m: int(m.line().rstrip("L")))
_reader(pickle.INT, lambda m: _int_or_bool(m.line()))
_reader(pickle.FLOAT, lambda m: float(m.line()))
_reader(pickle.BINFLOAT, lambda m: struct.unpack(">d", m.source.read(8))[0])
_reader(pickle.BINUNICODE, lambda m: str(m.sized(4), "utf-8", "surrogatepass"))
_reader(pickle.SHORT_BINUNICODE, lambda m: str(m.sized(1), "utf-8", "surrogatepass"))
_reader(pickle.BINUNICODE8, lambda m: str(m.sized(8), "utf-8", "surrogatepass"))
_reader(pickle.UNICODE, lambda m: str(m.source.readline(), "raw-unicode-escape"))
_reader(pickle.BINBYTES, lambda m: m.sized(4))
_reader(pickle.SHORT_BINBYTES, lambda m: m.sized(1))
_reader(pickle.BINBYTES8, lambda m: m.sized(8))
_reader(pickle.BYTEARRAY8, lambda m: bytearray(m.sized(8)))
_reader(pickle.BINSTRING, lambda m: m.sized(4).decode("latin1"))  # str of Python 2
_reader(pickle.SHORT_BINSTRING, lambda m: m.sized(1).decode("latin1"))

_reader(pickle.TUPLE, lambda m: tuple(m.pop_to_mark()))
_reader(pickle.TUPLE1, lambda m: (m.pop(),))
_reader(pickle.TUPLE2, lambda m: (m.pop(), m.pop())[::-1])
_reader(pickle.TUPLE3, lambda m: (m.pop(), m.pop(), m.pop())[::-1])
_reader(pickle.LIST, lambda m: m.pop_to_mark())
_reader(pickle.DICT, lambda m: _pairs(m.pop_to_mark()))
_reader(pickle.FROZENSET, lambda m: frozenset(_key(item) for item in m.pop_to_mark()))

_reader(pickle.GET, lambda m: m.memo[int(m.line())])
_reader(pickle.BINGET, lambda m: m.memo[m.unsigned(1)])
_reader(pickle.LONG_BINGET, lambda m: m.memo[m.unsigned(4)])

_reader(pickle.GLOBAL, lambda m: _Global(m.line(), m.line()))
_reader(pickle.STACK_GLOBAL, lambda m: _named(m.pop(), m.pop()))
_reader(pickle.BINPERSID, lambda m: m.persistent(m.pop()))


def _int_or_bool(text: str) -> int:
    return {"00": False, "01": True}[text] if text in ("00", "01") else int(text)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _named(name: Any, module: Any) -> _Global:
    if type(name) is not str or type(module) is not str:
        raise ValueError("a global without a name")
    return _Global(module, name)


@_operation(pickle.PROTO)
def _proto(machine: _Machine) -> None:
    if machine.unsigned(1) > 5:
        raise ValueError("a pickle of an unknown protocol")


@_operation(pickle.FRAME)
def _frame(machine: _Machine) -> None:
    machine.unsigned(8)  # frames help buffering only


@_operation(pickle.POP)
def _pop(machine: _Machine) -> None:
    machine.stack.pop()


@_operation(pickle.POP_MARK)
def _pop_mark(machine: _Machine) -> None:
    machine.pop_to_mark()


@_operation(pickle.DUP)
def _dup(machine: _Machine) -> None:
    machine.push(machine.stack[-1])


@_operation(pickle.MEMOIZE)
def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


@_operation(pickle.PUT)
def _put(machine: _Machine) -> None:
    machine.memo[int(machine.line())] = machine.stack[-1]


@_operation(pickle.BINPUT)
def _binput(machine: _Machine) -> None:
    machine.memo[machine.unsigned(1)] = machine.stack[-1]


@_operation(pickle.LONG_BINPUT)
def _long_binput(machine: _Machine) -> None:
    machine.memo[machine.unsigned(4)] = machine.stack[-1]


@_operation(pickle.APPEND)
def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


@_operation(pickle.APPENDS)
def _appends(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.top(list).extend(items)


@_operation(pickle.SETITEM)
def _setitem(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


@_operation(pickle.SETITEMS)
def _setitems(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.set_items(items)


@_operation(pickle.ADDITEMS)
def _additems(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.top(set).update(_key(item) for item in items)


@_operation(pickle.REDUCE)
def _reduce(machine: _Machine) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, arguments))


@_operation(pickle.NEWOBJ)
def _newobj(machine: _Machine) -> None:
    arguments, kind = machine.pop(), machine.pop()
    machine.push(machine.create(kind, arguments))


@_operation(pickle.BUILD)
def _build(machine: _Machine) -> None:
    state = machine.pop()
    machine.build(machine.stack[-1], state)
