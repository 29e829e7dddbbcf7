"""What pickles of weights are made of, and the functions of ours that stand in for those that they name."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Record:
    """What is left of an object: its class by name, the arguments it was made from, its state."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


class RefusedError(Exception):
    """The file asks for something outside the table."""


@dataclass(frozen=True)
class Global:
    """Something the pickle names. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return ascii(f"{self.module}.{self.name}"[:80])[1:-1]


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


class Storage:
    """The elements that tensors are views of; legacy files fill them after the views are made."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.bytes = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
        self.dtype = dtype
        self.count = count
        self.num_bytes = len(self.bytes)

    def fill(self, stream: Any) -> None:
        if self.num_bytes and stream.readinto(self.bytes.numpy().data) != self.num_bytes:
            raise EOFError("a storage ends in the middle")

    def checked(self, dtype: torch.dtype) -> "Storage":
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


class Budget:
    """All storages of a file together are no larger than the file."""

    def __init__(self, num_bytes: int) -> None:
        self.left = num_bytes

    def storage(self, dtype: torch.dtype, count: int) -> Storage:
        if count * dtype.itemsize > self.left:
            raise ValueError(f"storages claim more than the file's {self.left} bytes left for them")
        self.left -= count * dtype.itemsize
        return Storage(dtype, count)


def storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    """("storage", type, key, device, number of elements, ...) -> (dtype, key, number of elements)."""
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Global)):
        raise RefusedError("it refers to something that is no tensor storage")
    _, kind, key, _, count = pid[:5]
    if kind.module != "torch" or kind.name not in _STORAGE_TYPES:
        raise RefusedError(f"it holds a storage of type {kind}")
    if type(key) is not str or type(count) is not int or count < 0:
        raise ValueError("a malformed reference to a storage")
    return _STORAGE_TYPES[kind.name], key, count


def no_persistent_id(pid: Any) -> Any:
    raise RefusedError("it refers to objects outside the file")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_ignored: Any) -> Tensor:
    if not isinstance(storage, Storage):
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


class DType:
    """A NumPy element type; the pickle tells the byte order after it made the object."""

    def __init__(self, code: Any, *_ignored: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[biufc](1|2|4|8|16)", code)):
            raise RefusedError(f"it holds a NumPy array of elements {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """(version, byte order, ...)"""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _element_type(value: Any) -> np.dtype[Any]:
    if not isinstance(value, DType):
        raise ValueError("an array without an element type")
    return value.dtype


def fill_array(array: np.ndarray[Any, Any], state: Any) -> None:
    """``numpy.ndarray.__setstate__`` with its arguments checked: (version, shape, type, column order?, bytes)."""
    _, shape, element, fortran, data = state
    shape, dtype = _size_tuple(shape), _element_type(element)
    if type(data) not in (bytes, bytearray) or len(data) != dtype.itemsize * math.prod(shape):
        raise ValueError("an array whose bytes do not fit its shape")
    checked: Any = (1, shape, dtype, bool(fortran), bytes(data))
    array.__setstate__(checked)


def _array_from_buffer(data: Any, element: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    array = np.ndarray((0,), np.uint8)
    fill_array(array, (1, shape, element, order == "F", data))
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
    return {key_of(key): value for key, value in items}


def _persistent_module(meta: Any) -> Record:
    """NVIDIA's ``torch_utils.persistence``: {"class_name", "state", "module_src": Python source, ...}."""
    state = meta["state"]
    if not isinstance(state, dict) or not isinstance(meta["class_name"], str):
        raise ValueError("a malformed persistent module")
    return Record(meta["class_name"], (), dict(state))


_NUMPY_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("builtins", "__builtin__")

# (module, name) -> the function of ours that stands in for it
CALLS: dict[tuple[str, str], Callable[..., Any]] = {
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
    ("numpy", "dtype"): DType,
    ("_codecs", "encode"): _encode,
    **{(module, "set"): lambda items=(): {key_of(item) for item in items} for module in _BUILTINS},
    **{(module, "frozenset"): lambda items=(): frozenset(key_of(item) for item in items) for module in _BUILTINS},
    **{(module, "bytearray"): lambda data=b"": bytearray(plain_bytes(data)) for module in _BUILTINS},
    **{(module, "bytes"): lambda: b"" for module in _BUILTINS},
    **{(module, "_reconstruct"): lambda *_ignored: np.ndarray((0,), np.uint8) for module in _NUMPY_MULTIARRAY},
    **{(module, "scalar"): _scalar for module in _NUMPY_MULTIARRAY},
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _array_from_buffer,
}

# classes of which a record is kept
RECORDS = re.compile(r"torch\.nn\.modules\.\w+\.[A-Z]\w*|dnnlib\.tflib\.network\.Network|argparse\.Namespace")


def plain_bytes(data: Any) -> bytes:
    if type(data) is not bytes:  # bytearray(10**12) would allocate as much
        raise ValueError("a malformed bytearray")
    return data


def key_of(value: Any) -> Any:
    """A dictionary key or set member: plain values and flat tuples of them, so that hashing ends."""
    plain = (str, int, float, bytes, bool, type(None), Global)
    if type(value) in plain or (type(value) is tuple and all(type(part) in plain for part in value)):
        return value
    raise ValueError(f"a dictionary key of type {type(value).__name__}")
