"""The compiled pass behind ``augment.py``; tests/train/test_augment.py holds its literal twin."""

from collections.abc import Callable

import numba
import numpy as np

_ZERO, _ONE = np.float32(0), np.float32(1)


def _compiled(function: Callable) -> Callable:
    """Compile without the GIL, with numba's cache where there is a writable place for it."""
    try:
        return numba.njit(function, cache=True, nogil=True, fastmath=True)
    except RuntimeError:  # "no locator available": compiled anew in each process
        return numba.njit(function, nogil=True, fastmath=True)


@_compiled
def transform_batch(
    out, images, boxes, height, width, top, left, flips, colour, orders, factors, greys, erased, mean, inverse_std
):
    """See ``augment.Parameters``; out float32 (B, S, S, 3), images uint8 (B, H, W, C) with C 1 or 3."""
    num_images, side, _, _ = out.shape
    channels = images.shape[3]
    planes = np.empty((channels, side * side), np.float32)
    for i in range(num_images):
        _resample(planes, images[i], boxes[i], height, width, top, left, flips[i])
        if colour[i]:
            for step in orders[i]:
                factor = factors[i, step]
                if step == 0 and factor != 1:
                    _blend(planes, _ZERO, factor)
                elif step == 1 and factor != 1:
                    _blend(planes, _mean_grey(planes), factor)
                elif step == 2 and factor != 1 and channels == 3:
                    _saturate(planes, factor)
                elif step == 3 and factor != 0 and channels == 3:
                    _shift_hue(planes, factor)
        if greys[i] and channels == 3:
            _saturate(planes, _ZERO)
        _normalise(out[i].reshape(side * side, 3), planes, mean, inverse_std)
        bottom, right = erased[i, 0] + erased[i, 2], erased[i, 1] + erased[i, 3]
        out[i, erased[i, 0] : bottom, erased[i, 1] : right] = 0


@_compiled
def _resample(planes, image, box, height, width, top, left, flip):
    """Bilinear with antialiasing: the box to (height, width), of it the square at (top, left), to [0, 1]."""
    channels = image.shape[2]
    side = int(np.sqrt(planes.shape[1]))
    row_starts, row_weights = _taps(box[2], height, top, side)
    starts, weights = _taps(box[3], width, left, side)
    row_weights /= 255
    if flip:
        starts, weights = starts[::-1].copy(), weights[:, ::-1].copy()
    starts *= channels
    span = box[3] * channels
    line = np.zeros(span + channels, np.float32)  # one output row, still as wide as the box, and a pixel of no weight
    for y in range(side):
        line[:span] = 0
        for tap in range(len(row_weights)):
            weight = row_weights[tap, y]
            source = image[box[0] + row_starts[y] + tap, box[1] : box[1] + box[3]].reshape(span)
            for j in range(span):
                line[j] += weight * np.float32(source[j])
        rows = planes[:, y * side : (y + 1) * side]
        rows[:] = 0
        if channels == 3:
            _add_colours(rows, line, starts, weights)
        else:
            _add_grey(rows[0], line, starts, weights)


@_compiled
def _add_grey(row, line, starts, weights):
    for tap in range(len(weights)):
        tap_weights = weights[tap]
        for x in range(len(row)):  # innermost: the compiler turns the look-ups into vector gathers
            row[x] += tap_weights[x] * line[starts[x] + tap]


@_compiled
def _add_colours(rows, line, starts, weights):
    """Two taps at a time and the three colours together: half the time of gathers, one tap and colour after another."""
    reds, greens, blues = rows[0], rows[1], rows[2]
    nothing = np.zeros(len(reds), np.float32)
    for tap in range(0, len(weights), 2):
        first, second = weights[tap], weights[tap + 1] if tap + 1 < len(weights) else nothing
        for x in range(len(reds)):
            at = np.uint32(starts[x] + 3 * tap)  # unsigned: no index counts from the end
            reds[x] += first[x] * line[at] + second[x] * line[at + np.uint32(3)]
            greens[x] += first[x] * line[at + np.uint32(1)] + second[x] * line[at + np.uint32(4)]
            blues[x] += first[x] * line[at + np.uint32(2)] + second[x] * line[at + np.uint32(5)]


@_compiled
def _taps(source, target, offset, side):
    """Where each of ``side`` output pixels begins to read, int32 (side,), and its weights (T, side).

    A triangle as wide as a source pixel, or as a target pixel where that is wider (Pillow, torch antialias=True).
    """
    scale = source / target
    reach = max(scale, 1.0)
    num_taps = min(int(np.ceil(2 * reach)), source)
    starts = np.empty(side, np.int32)
    weights = np.zeros((num_taps, side), np.float32)
    for x in range(side):
        centre = (x + offset + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), source)
        starts[x] = min(first, source - num_taps)  # also taps of weight 0 read inside the box
        total = 0.0
        for position in range(first, last):
            total += max(0.0, 1 - abs((position + 0.5 - centre) / reach))
        for position in range(first, last):
            weights[position - starts[x], x] = max(0.0, 1 - abs((position + 0.5 - centre) / reach)) / total
    return starts, weights


@_compiled
def _blend(planes, other, factor):
    """factor * image + (1 - factor) * other, in [0, 1]: brightness against 0, contrast against the mean grey."""
    rest = (_ONE - factor) * other
    for c in range(len(planes)):
        plane = planes[c]
        for p in range(len(plane)):
            plane[p] = min(max(factor * plane[p] + rest, _ZERO), _ONE)


@_compiled
def _grey(red, green, blue):
    return np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue


@_compiled
def _mean_grey(planes):
    total = _ZERO
    if len(planes) == 1:
        for value in planes[0]:
            total += value
    else:
        red, green, blue = planes[0], planes[1], planes[2]
        for p in range(len(red)):
            total += _grey(red[p], green[p], blue[p])
    return total / np.float32(planes.shape[1])


@_compiled
def _saturate(planes, factor):
    """factor * image + (1 - factor) * its grey, in [0, 1]; factor 0 is the grey image."""
    red, green, blue = planes[0], planes[1], planes[2]
    for p in range(len(red)):
        rest = (_ONE - factor) * _grey(red[p], green[p], blue[p])
        red[p] = min(max(factor * red[p] + rest, _ZERO), _ONE)
        green[p] = min(max(factor * green[p] + rest, _ZERO), _ONE)
        blue[p] = min(max(factor * blue[p] + rest, _ZERO), _ONE)


@_compiled
def _shift_hue(planes, turns):
    """Through HSV: the hue of each pixel moves by ``turns`` of the colour circle."""
    reds, greens, blues = planes[0], planes[1], planes[2]
    for p in range(len(reds)):
        red, green, blue = reds[p], greens[p], blues[p]
        value = max(red, green, blue)
        chroma = value - min(red, green, blue)
        scale = chroma if chroma > 0 else _ONE
        if value == red:
            hue = (green - blue) / scale
        elif value == green:
            hue = np.float32(2) + (blue - red) / scale
        else:
            hue = np.float32(4) + (red - green) / scale
        hue += np.float32(6) * turns
        reds[p] = value - chroma * _ramp(hue + np.float32(5))
        greens[p] = value - chroma * _ramp(hue + np.float32(3))
        blues[p] = value - chroma * _ramp(hue + _ONE)


@_compiled
def _ramp(sixths):
    """How far a channel lies below the value, over the chroma: 0, up to 1, 1, back to 0 along the colour circle."""
    sixths -= np.float32(6) * np.floor(sixths * np.float32(1 / 6))
    return max(_ZERO, min(sixths, np.float32(4) - sixths, _ONE))


@_compiled
def _normalise(pixels, planes, mean, inverse_std):
    """Planes to pixels (S * S, 3); a single plane is repeated."""
    last = len(planes) - 1
    red, green, blue = planes[0], planes[last // 2], planes[last]
    red_mean, green_mean, blue_mean = mean[0], mean[1], mean[2]
    red_scale, green_scale, blue_scale = inverse_std[0], inverse_std[1], inverse_std[2]
    for p in range(len(red)):
        pixels[p, 0] = (red[p] - red_mean) * red_scale
        pixels[p, 1] = (green[p] - green_mean) * green_scale
        pixels[p, 2] = (blue[p] - blue_mean) * blue_scale
