"""Frozen encoders, and the features they give to real images; computed once, then read from disk."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from genrep.evaluate.data import Images, Part, RealData
from genrep.evaluate.shift import AffineMaps, Shift, draw_affine_maps, move
from genrep.shards import atomic
from genrep.shards.cache import cache_bytes
from genrep.shards.errors import DataError
from genrep.train.checkpoint import LoadedBackbone

Progress = Callable[[str, int, int], None]  # what is being done, steps done, of how many

REVISION = 3  # of all that is kept on disk: one more when a change of the program moves a number
PARTS = ("fit", "held_out", "test")
ROWS_PER_FILE = 2**16


@dataclass(frozen=True)
class Encoder:
    """A frozen map from images to features.

    Attributes:
        name: What tables call it.
        identity: All that its features depend on beside the images; JSON.
        resize: What the short side of an image is resized to, px.
        crop: Side of the centre crop, px.
        apply: Images (B, C, crop, crop) in [0, 1], C in {1, 3} -> features (B, F), on the device of the images.
        to: Moves it to a device.
        batch: Images at once.
        worth_keeping: Whether its features take longer to compute than to read.
        poolings: Names of the blocks of equal width that lie side by side in the features; the first is the encoder's
            own, which every probe uses.
    """

    name: str
    identity: dict[str, Any]
    resize: int
    crop: int
    apply: Callable[[torch.Tensor], torch.Tensor]
    to: Callable[[str], object]
    batch: int
    worth_keeping: bool
    poolings: tuple[str, ...] = ("own",)


@dataclass(frozen=True)
class Labelled:
    """Features float32 (N, P * F) of P poolings side by side, and labels int64 (N,), on one device."""

    features: torch.Tensor
    labels: torch.Tensor
    poolings: tuple[str, ...] = ("own",)

    @property
    def width(self) -> int:
        """F."""
        return self.features.shape[1] // len(self.poolings)


@dataclass(frozen=True)
class Features:
    """What an encoder sees in a data set."""

    fit: Labelled
    held_out: Labelled
    test: Labelled


def backbone_encoder(
    name: str, backbone: LoadedBackbone, module: nn.Module, identity: dict[str, Any], *, pooled: bool = False
) -> Encoder:
    """``module`` on images prepared as for ``backbone``: short side, centre crop, three channels, normalised.

    Args:
        pooled: Give the maximum over the image as well, beside the average that a ResNet's features are.
    """
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    mean, std = torch.tensor(backbone.mean).view(3, 1, 1), torch.tensor(backbone.std).view(3, 1, 1)
    last = _last_map(module, crop=backbone.image_size) if pooled else None

    def apply(images: torch.Tensor) -> torch.Tensor:
        normalised = (images - mean.to(images.device)) / std.to(images.device)  # makes three channels of one
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        if last is None:
            return module(normalised)
        maps: list[torch.Tensor] = []
        with last.register_forward_hook(lambda layer, inputs, output: maps.append(output)):
            average = module(normalised)
        return torch.cat([average, maps[0].amax((2, 3))], 1)

    poolings = ("average", "maximum") if last is not None else ("own",)
    preparation = {
        "resize": backbone.resize_size,
        "crop": backbone.image_size,
        "mean": backbone.mean,
        "std": backbone.std,
        "poolings": poolings,
    }
    return Encoder(
        name,
        {**identity, **preparation},
        backbone.resize_size,
        backbone.image_size,
        apply,
        module.to,
        batch=128,
        worth_keeping=True,
        poolings=poolings,
    )


def _last_map(module: nn.Module, *, crop: int) -> nn.Module | None:
    """The layer whose maps are averaged to features, as in our tiny ResNet and torchvision's; None without one."""
    last = next((getattr(module, name) for name in ("blocks", "layer4") if hasattr(module, name)), None)
    if last is None:
        return None
    maps: list[torch.Tensor] = []
    with torch.inference_mode(), last.register_forward_hook(lambda layer, inputs, output: maps.append(output)):
        features = module(torch.rand(2, 3, crop, crop, generator=torch.Generator().manual_seed(0)))
    is_average = maps[0].ndim == 4 and maps[0].shape[:2] == features.shape
    return last if is_average and torch.allclose(maps[0].mean((2, 3)), features, rtol=1e-3, atol=1e-5) else None


def features_of(
    encoder: Encoder,
    data: RealData,
    *,
    shift: Shift,
    cache: Path,
    device: str,
    progress: Progress,
    dtype: str = "float32",
) -> Features:
    """The features of all three parts, on ``device``; kept under ``cache`` where that is worth it.

    Args:
        dtype: What networks compute in, by automatic mixed precision: float32 (none), float16 or bfloat16.

    Raises:
        DataError: If a feature is not finite, or the cache cannot be read or written.
    """
    key = key_of(encoder.identity, data.sha256, shift, dtype)
    parts: dict[str, Labelled] = {}
    for which in PARTS:
        part: Part = getattr(data, which)
        kept = cache / "features" / f"{key}-{which}" if encoder.worth_keeping else None
        features = part_features(encoder, part, shift=shift, kept=kept, device=device, progress=progress, dtype=dtype)
        parts[which] = Labelled(features.to(device), torch.from_numpy(part.labels).to(device), encoder.poolings)
    return Features(**parts)


def part_features(
    encoder: Encoder,
    part: Part,
    *,
    shift: Shift,
    kept: Path | None,
    device: str,
    progress: Progress,
    dtype: str = "float32",
) -> torch.Tensor:
    """Features float32 (N, P * F) of a part, on the CPU; from files ``kept-00000.npy``, ... as far as these are there.

    The files are written as the work goes on. All files of their folder together take at most ``GENREP_CACHE_GB``
    gigabytes (32): those not used for the longest time go.
    """
    blocks = []
    for number, first in enumerate(range(0, len(part.labels), ROWS_PER_FILE)):
        rows = range(first, min(first + ROWS_PER_FILE, len(part.labels)))
        file = kept.with_name(f"{kept.name}-{number:05d}.npy") if kept is not None else None
        block = _read(file, len(rows)) if file is not None else None
        if block is None:
            block = extract(encoder, part, shift=shift, device=device, progress=progress, dtype=dtype, rows=rows)
            if file is not None:
                _write(file, block)
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def extract(
    encoder: Encoder,
    part: Part,
    *,
    shift: Shift,
    device: str,
    progress: Progress,
    dtype: str = "float32",
    rows: range | None = None,
) -> torch.Tensor:
    """Features float32 (N, P * F) of a part, or of some of its rows, on the CPU."""
    encoder.to(device)
    num_images = len(part.labels)
    rows = range(num_images) if rows is None else rows
    batches = []
    with torch.inference_mode(), precision(device, dtype):
        for first in range(rows.start, rows.stop, encoder.batch):
            some = range(first, min(first + encoder.batch, rows.stop))
            maps = draw_affine_maps(part.source, part.positions[some.start : some.stop]) if shift == "affine" else None
            images = prepare(part.read(some), maps, resize=encoder.resize, crop=encoder.crop)
            features = encoder.apply(images.to(device)).float().cpu()
            if not features.isfinite().all():
                raise DataError(
                    f"{encoder.name}: its features of {part.source} images are not finite, as of a training that "
                    f"diverged: use an earlier checkpoint{'' if dtype == 'float32' else ', or --dtype float32'}"
                )
            batches.append(features)
            progress(f"{encoder.name}: features", some.stop, num_images)
    return torch.cat(batches)


def precision(device: str, dtype: str) -> torch.autocast:
    """Automatic mixed precision in ``dtype``; none where it is float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, getattr(torch, dtype) if dtype != "float32" else None, enabled=dtype != "float32")


def prepare(images: Images, maps: AffineMaps | None, *, resize: int, crop: int) -> torch.Tensor:
    """Images uint8 (H, W, C), moved if asked, as float (B, C, crop, crop) in [0, 1].

    The short side is resized to ``resize`` (bilinear, antialiased) unless it has that length; then the centre is
    cropped.
    """
    if len({image.shape for image in images}) > 1:  # photographs: each at its own size
        each = [(image, None if maps is None else maps[i : i + 1]) for i, image in enumerate(images)]
        return torch.cat([prepare([image], own, resize=resize, crop=crop) for image, own in each])
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    if maps is not None:
        pixels = move(pixels, maps)
    height, width = pixels.shape[2:]
    short = min(height, width)
    if short != resize:
        size = [round(height * resize / short), round(width * resize / short)]
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    top, left = (pixels.shape[2] - crop) // 2, (pixels.shape[3] - crop) // 2
    return pixels[:, :, top : top + crop, left : left + crop]


def key_of(*facts: Any) -> str:
    """A file name for what depends on these JSON values, and on this version of the program, alone."""
    text = json.dumps([REVISION, *facts], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path, num_images: int) -> torch.Tensor | None:
    """None where there is nothing yet."""
    try:
        features = np.load(path, allow_pickle=False)
        os.utime(path)  # the most recently used of its folder
        whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == num_images
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it to compute these features again") from error
    if not whole:
        raise DataError(f"{path} does not hold {num_images} rows of features: remove it to compute them again")
    return torch.from_numpy(features)


def _write(path: Path, features: torch.Tensor) -> None:
    with atomic.reported(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_stale(path.parent)  # what a killed process was writing
    content = io.BytesIO()
    np.save(content, features.numpy(), allow_pickle=False)
    _make_room(path.parent, len(content.getbuffer()))
    atomic.write(path, content.getvalue())


def _make_room(folder: Path, size: int) -> None:
    """Remove kept features, least recently used first, until ``size`` more bytes are within the bound."""
    files = {}
    for file in folder.glob("*.npy"):
        with suppress(FileNotFoundError):  # another process makes room as well
            files[file] = file.stat()
    taken = sum(stat.st_size for stat in files.values())
    for file in sorted(files, key=lambda file: files[file].st_mtime_ns):
        if taken + size <= cache_bytes():
            break
        file.unlink(missing_ok=True)
        taken -= files[file].st_size
