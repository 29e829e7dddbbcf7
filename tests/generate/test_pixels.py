import numpy as np
import pytest
import torch

from genrep.generate.pixels import to_pixels


def test_pixels_are_rounded_from_the_unit_range_and_clipped():
    values = torch.tensor([-1.0, -2.0, 1.0, 2.0, 0.0, -1 + 1 / 127.5, -1 + 1.6 / 127.5])
    assert to_pixels(values.view(1, 1, 1, 7)).flatten().tolist() == [0, 0, 255, 255, 128, 1, 2]


def test_pixels_come_channels_last():
    assert to_pixels(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


def literally(images):
    """(x + 1) * 127.5 in float32, operation by operation."""
    levels = ((images.numpy().astype(np.float32) + np.float32(1)) * np.float32(127.5)).round()
    return levels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_pass_gives_the_bytes_of_the_formula_in_any_layout(layout, dtype):
    borders = (torch.arange(-3, 516) / 2 / 127.5 - 1).repeat(3)  # between grey levels, and one step to each side
    borders[:519], borders[1038:] = (
        borders[:519].nextafter(torch.tensor(-9.0)),
        borders[1038:].nextafter(torch.tensor(9.0)),
    )
    images = borders[: 3 * 3 * 173].view(1, 3, 3, 173).to(dtype).contiguous(memory_format=layout)
    assert np.array_equal(to_pixels(images).numpy(), literally(images.float()))


def test_only_one_channel_and_infinities_are_pixels_too():
    images = torch.tensor([float("-inf"), -1, 1, float("inf")]).view(1, 1, 1, 4)
    assert to_pixels(images).flatten().tolist() == [0, 0, 255, 255]
