"""Float images to bytes of pixels: one compiled pass on a CPU, torch's operations elsewhere, with the same bytes."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(images: Tensor) -> Tensor:
    """Float (B, C, H, W) in [-1, 1] -> uint8 (B, H, W, C): (x + 1) * 127.5, rounded half to even, clipped."""
    if images.device.type == "cpu":
        batch, channels, height, width = images.shape
        pixels = np.empty((batch, height, width, channels), np.uint8)
        floats = images.detach().float()
        if floats.is_contiguous(memory_format=torch.channels_last):  # in the order of the pixels: as one channel
            floats = floats.permute(0, 2, 3, 1).reshape(batch, 1, height, width * channels)
        floats = floats.contiguous()
        _kernel()(floats.numpy(), pixels.reshape(batch, height, -1, floats.shape[1]))
        return torch.from_numpy(pixels)
    grey_levels = (images.float() + 1).mul_(127.5).round_().clamp_(0, 255)
    return grey_levels.to(torch.uint8).permute(0, 2, 3, 1)


@cache
def _kernel() -> Callable[[NDArray[np.float32], NDArray[np.uint8]], None]:
    import numba

    try:
        return numba.njit(_quantised, cache=True, nogil=True)
    except RuntimeError:  # "no locator available": compiled anew in each process
        return numba.njit(_quantised, nogil=True)


def _quantised(images, out):
    """``to_pixels`` of images (B, C, H, W) into ``out`` (B, H, W, C): rows lie together while they are computed."""
    one, half, least, most = np.float32(1), np.float32(127.5), np.float32(0), np.float32(255)
    batch, channels, height, width = images.shape
    row = np.empty(width, np.uint8)
    for b in range(batch):
        for y in range(height):
            for c in range(channels):
                for x in range(width):
                    level = np.rint((images[b, c, y, x] + one) * half)
                    row[x] = np.uint8(np.int32(min(max(level, least), most)))  # conditions are slower
                for x in range(width):
                    out[b, y, x, c] = row[x]
