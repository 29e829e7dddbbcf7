"""The scheduling of copies, on a device that does what it is told as late, or as early, as it may."""

import weakref

import numpy as np
import pytest
import torch

from genrep.generate.streams import DEPTH, to_host


class SimulatedEvent:
    def __init__(self, device, stream, position):
        self.device, self.stream, self.position = device, stream, position

    def synchronize(self):
        self.device.log.append(f"wait for copy {self.device.copies_before(self)}")
        self.stream.run(self.position)


class SimulatedStream:
    """Runs its work in order: early, as soon as it is given; late, not before somebody waits for it."""

    def __init__(self, device):
        self.device, self.work, self.done = device, [], 0

    def give(self, work):
        self.work.append(work)
        if self.device.early:
            self.run(len(self.work))

    def run(self, position):
        while self.done < position:
            self.done += 1
            self.work[self.done - 1]()

    def record_event(self):
        return SimulatedEvent(self.device, self, len(self.work))

    def wait_event(self, event):
        self.give(lambda: event.stream.run(event.position))


class SimulatedDevice:
    """Its log holds what the host did, in order."""

    def __init__(self, *, early):
        self.early, self.log, self.buffers = early, [], 0
        self.rendering = SimulatedStream(self)
        self.copying = None

    def current_stream(self):
        return self.rendering

    def new_stream(self):
        self.copying = SimulatedStream(self)
        return self.copying

    def host_buffer(self, like):
        self.buffers += 1
        return torch.full_like(like, -1)

    def copy(self, source, target, stream):
        memory = weakref.ref(source)  # a real device knows an address, it keeps nothing alive

        def run():
            assert memory() is not None, "the memory was given back before it was copied"
            target.copy_(memory())

        stream.give(run)
        self.log.append("copy")

    def copies_before(self, event):
        """Number of the last of the items copied before an event; an item is a wait and two copies."""
        return (event.position - 1) // 3


def items(device, count):
    """Item n is two tensors full of n, written on the rendering stream."""
    for number in range(count):
        tensors = [torch.zeros(2, 3), torch.zeros((), dtype=torch.int64)]
        for memory in map(weakref.ref, tensors):
            device.rendering.give(lambda memory=memory, value=number: memory().fill_(value))
        device.log.append(f"render {number}")
        yield number, tensors
        del tensors


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("count", [0, 1, DEPTH, DEPTH + 1, 11])
def test_every_item_arrives_whole_and_in_order_however_late_or_early_the_device_works(early, count):
    device = SimulatedDevice(early=early)
    arrived = list(to_host(items(device, count), device))
    assert [number for number, _ in arrived] == list(range(count))
    for number, (images, flag) in arrived:
        np.testing.assert_array_equal(images, np.full((2, 3), number))
        assert flag == number


def test_the_host_waits_for_a_copy_only_when_the_device_has_more_to_render():
    device = SimulatedDevice(early=False)
    for number, _ in to_host(items(device, 4), device):
        device.log.append(f"encode {number}")
    assert DEPTH == 2
    assert [entry for entry in device.log if entry != "copy"] == [
        "render 0",
        "render 1",
        "render 2",
        "wait for copy 0",
        "encode 0",
        "render 3",
        "wait for copy 1",
        "encode 1",
        "wait for copy 2",
        "encode 2",
        "wait for copy 3",
        "encode 3",
    ]
    renders = [place for place, entry in enumerate(device.log) if entry.startswith("render")]
    assert [device.log[place + 1 : place + 3] for place in renders] == [["copy", "copy"]] * 4


def test_waiting_for_a_copy_waits_for_no_later_rendering():
    device = SimulatedDevice(early=False)
    arriving = to_host(items(device, 4), device)
    next(arriving)
    assert device.rendering.done == 2  # both tensors of item 0, though three items were given to the device


def test_buffers_are_used_again():
    device = SimulatedDevice(early=False)
    list(to_host(items(device, 50), device))
    assert device.buffers == 2 * (DEPTH + 1)


def test_an_error_of_the_rendering_is_passed_on():
    def broken():
        yield from items(device, 1)
        raise RuntimeError("no memory")

    device = SimulatedDevice(early=False)
    with pytest.raises(RuntimeError, match="no memory"):
        list(to_host(broken(), device))


def test_on_the_cpu_nothing_is_copied_and_nothing_rendered_ahead():
    tensors = [torch.arange(6).view(2, 3), torch.tensor(True)]
    given = iter([("first", tensors), ("second", tensors)])
    arriving = to_host(given, None)
    key, (images, flag) = next(arriving)
    assert (key, flag) == ("first", True)
    assert np.shares_memory(images, tensors[0].numpy())
    assert next(given)[0] == "second"
