"""The machine that runs a pickle: it knows data only, and bounds what these may take."""

import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from genrep.generate.pickled import (
    CALLS,
    RECORDS,
    DType,
    Global,
    Record,
    RefusedError,
    Storage,
    fill_array,
    key_of,
    plain_bytes,
)

MAX_OPERATIONS = 1_000_000  # a training checkpoint of StyleGAN2 with its optimiser's state needs about 50,000
_MAX_LINE = 10_000  # bytes of a number or a name in the text opcodes


class Source:
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


class _Mark:
    pass


class Machine:
    """Runs one pickle. ``persistent`` resolves storages; ``load_bytes`` reads a tensor nested as a legacy file."""

    def __init__(
        self, source: Source, persistent: Callable[[Any], Any], load_bytes: Callable[[bytes], Any] | None
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
                raise RefusedError(f"it uses pickle operation {code!r}")
            operation(self)
        raise RefusedError(f"it runs for more than {MAX_OPERATIONS} operations")

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
            raise RefusedError("it copies far more than it holds")

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise RefusedError("it calls something that is no named function")
        self.charge(arguments)
        name = (function.module, function.name)
        if name in CALLS:
            return CALLS[name](*arguments)
        if name == ("torch.storage", "_load_from_bytes") and self.load_bytes is not None:
            storage = self.load_bytes(plain_bytes(*arguments))
            if not isinstance(storage, Storage):
                raise RefusedError("it holds a pickle inside a pickle that is no tensor")
            return storage
        if name in (("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")):
            return self.create(arguments[0], ())
        return self.create(function, arguments)

    def create(self, kind: Any, arguments: Any) -> Any:
        if not isinstance(kind, Global) or type(arguments) is not tuple:
            raise RefusedError("it makes an object of something that is no named class")
        self.charge(arguments)
        if (kind.module, kind.name) in CALLS:
            return CALLS[kind.module, kind.name](*arguments)
        name = f"{kind.module}.{kind.name}"
        if not RECORDS.fullmatch(name):
            raise RefusedError(f"it asks for {kind}, which is not among the things that weights are made of")
        return Record(name, arguments)

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state."""
        self.charge(state if type(state) is tuple else (state,))
        if type(target) is Record and type(state) is dict:
            target.state.update(state)
        elif type(target) is np.ndarray:
            fill_array(target, state)
        elif type(target) is DType:
            target.build(state)
        elif type(target) is not dict:  # a state dict's attribute _metadata is passed over
            raise RefusedError(f"it sets the state of a {type(target).__name__}")


# one function for each operation of the pickle language that data need
_OPERATIONS: dict[bytes, Callable[[Machine], None]] = {}


def _operation(*codes: bytes) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    def register(function: Callable[[Machine], None]) -> Callable[[Machine], None]:
        _OPERATIONS.update(dict.fromkeys(codes, function))
        return function

    return register


def _constant(code: bytes, make: Callable[[], Any]) -> None:
    _OPERATIONS[code] = lambda machine: machine.push(make())


def _reader(code: bytes, read: Callable[[Machine], Any]) -> None:
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
_reader(pickle.FROZENSET, lambda m: frozenset(key_of(item) for item in m.pop_to_mark()))

_reader(pickle.GET, lambda m: m.memo[int(m.line())])
_reader(pickle.BINGET, lambda m: m.memo[m.unsigned(1)])
_reader(pickle.LONG_BINGET, lambda m: m.memo[m.unsigned(4)])

_reader(pickle.GLOBAL, lambda m: Global(m.line(), m.line()))
_reader(pickle.STACK_GLOBAL, lambda m: _named(m.pop(), m.pop()))
_reader(pickle.BINPERSID, lambda m: m.persistent(m.pop()))


def _int_or_bool(text: str) -> int:
    return {"00": False, "01": True}[text] if text in ("00", "01") else int(text)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {key_of(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _named(name: Any, module: Any) -> Global:
    if type(name) is not str or type(module) is not str:
        raise ValueError("a global without a name")
    return Global(module, name)


@_operation(pickle.PROTO)
def _proto(machine: Machine) -> None:
    if machine.unsigned(1) > 5:
        raise ValueError("a pickle of an unknown protocol")


@_operation(pickle.FRAME)
def _frame(machine: Machine) -> None:
    machine.unsigned(8)  # frames help buffering only


@_operation(pickle.POP)
def _pop(machine: Machine) -> None:
    machine.stack.pop()


@_operation(pickle.POP_MARK)
def _pop_mark(machine: Machine) -> None:
    machine.pop_to_mark()


@_operation(pickle.DUP)
def _dup(machine: Machine) -> None:
    machine.push(machine.stack[-1])


@_operation(pickle.MEMOIZE)
def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


@_operation(pickle.PUT)
def _put(machine: Machine) -> None:
    machine.memo[int(machine.line())] = machine.stack[-1]


@_operation(pickle.BINPUT)
def _binput(machine: Machine) -> None:
    machine.memo[machine.unsigned(1)] = machine.stack[-1]


@_operation(pickle.LONG_BINPUT)
def _long_binput(machine: Machine) -> None:
    machine.memo[machine.unsigned(4)] = machine.stack[-1]


@_operation(pickle.APPEND)
def _append(machine: Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


@_operation(pickle.APPENDS)
def _appends(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.top(list).extend(items)


@_operation(pickle.SETITEM)
def _setitem(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


@_operation(pickle.SETITEMS)
def _setitems(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.set_items(items)


@_operation(pickle.ADDITEMS)
def _additems(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.top(set).update(key_of(item) for item in items)


@_operation(pickle.REDUCE)
def _reduce(machine: Machine) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, arguments))


@_operation(pickle.NEWOBJ)
def _newobj(machine: Machine) -> None:
    arguments, kind = machine.pop(), machine.pop()
    machine.push(machine.create(kind, arguments))


@_operation(pickle.BUILD)
def _build(machine: Machine) -> None:
    state = machine.pop()
    machine.build(machine.stack[-1], state)
