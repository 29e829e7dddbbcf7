"""Between host and device while the device goes on: what was rendered is copied behind the next rendering."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DEPTH = 2  # micro-batches under way: while the host handles one, the device has another to render

Key = TypeVar("Key")


class Event(Protocol):
    def synchronize(self) -> None: ...


class Stream(Protocol):
    def record_event(self) -> Any: ...

    def wait_event(self, event: Any) -> None: ...


class Device(Protocol):
    """What copying asks of a device; :class:`CudaDevice`, or a stand-in that a test can watch."""

    def current_stream(self) -> Stream: ...

    def new_stream(self) -> Stream: ...

    def host_buffer(self, like: Tensor) -> Tensor: ...

    def copy(self, source: Tensor, target: Tensor, stream: Any) -> None: ...


class CudaDevice:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def current_stream(self) -> Stream:
        return torch.cuda.current_stream(self._device)

    def new_stream(self) -> Stream:
        return torch.cuda.Stream(self._device)

    def host_buffer(self, like: Tensor) -> Tensor:
        """Page-locked: a copy from pageable memory would keep the host waiting."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def copy(self, source: Tensor, target: Tensor, stream: torch.cuda.Stream) -> None:
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)


def to_device(rows: NDArray[Any], device: torch.device) -> Tensor:
    """The rows on the device, where a GPU will have them before what is launched next; the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(
    rendered: Iterable[tuple[Key, Sequence[Tensor]]], device: Device | None
) -> Iterator[tuple[Key, list[NDArray[Any]]]]:
    """The tensors of every item as arrays, in order.

    Args:
        rendered: Items whose tensors may still be under way on the device's current stream; of the same number, shapes
            and types in each.
        device: None for tensors of the CPU, which are handed on as they are.

    With a device, items are drawn from ``rendered`` up to ``DEPTH`` ahead, and their copies run on a stream of their
    own: the device renders one while another is copied and a third is encoded by whoever takes the arrays.
    """
    if device is None:
        for key, tensors in rendered:
            yield key, [tensor.numpy() for tensor in tensors]
        return
    copies = device.new_stream()
    free: list[list[Tensor]] = []
    waiting: deque[tuple[Key, Sequence[Tensor], list[Tensor], Event]] = deque()

    def arrived() -> tuple[Key, list[NDArray[Any]]]:
        key, _, buffers, copied = waiting.popleft()  # until here the source is held, or its memory would be used again
        copied.synchronize()
        arrays = [np.array(buffer.numpy()) for buffer in buffers]  # the buffer is filled again, the array is kept
        free.append(buffers)
        return key, arrays

    for key, tensors in rendered:
        buffers = free.pop() if free else [device.host_buffer(tensor) for tensor in tensors]
        copies.wait_event(device.current_stream().record_event())
        for source, target in zip(tensors, buffers, strict=True):
            device.copy(source, target, copies)
        waiting.append((key, tensors, buffers, copies.record_event()))
        if len(waiting) > DEPTH:
            yield arrived()
    while waiting:
        yield arrived()
