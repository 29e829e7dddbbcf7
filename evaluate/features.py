"""Frozen encoders, and the features they give to real images; computed once, then read from disk."""

import hashlib
import io
import json
from collections.abc import Callable
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
from genrep.shards.errors import DataError
from genrep.train.checkpoint import LoadedBackbone

Progress = Callable[[str, int, int], None]  # what is being done, steps done, of how many

REVISION = 1  # of all that is kept on disk: one more when a change of the program moves a number
PARTS = ("fit", "held_out", "test")


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
    """

    name: str
    identity: dict[str, Any]
    resize: int
    crop: int
    apply: Callable[[torch.Tensor], torch.Tensor]
    to: Callable[[str], object]
    batch: int
    worth_keeping: bool


@dataclass(frozen=True)
class Labelled:
    """Features float32 (N, F) and labels int64 (N,), on one device."""

    features: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Features:
    """What an encoder sees in a data set."""

    fit: Labelled
    held_out: Labelled
    test: Labelled


def backbone_encoder(name: str, backbone: LoadedBackbone, module: nn.Module, identity: dict[str, Any]) -> Encoder:
    """``module`` on images prepared as for ``backbone``: short side, centre crop, three channels, normalised."""
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    mean, std = torch.tensor(backbone.mean).view(3, 1, 1), torch.tensor(backbone.std).view(3, 1, 1)

    def apply(images: torch.Tensor) -> torch.Tensor:
        normalised = (images - mean.to(images.device)) / std.to(images.device)  # makes three channels of one
        return module(normalised.contiguous(memory_format=torch.channels_last))

    preparation = {
        "resize": backbone.resize_size,
        "crop": backbone.image_size,
        "mean": backbone.mean,
        "std": backbone.std,
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
    )


def features_of(
    encoder: Encoder, data: RealData, *, shift: Shift, cache: Path, device: str, progress: Progress
) -> Features:
    """The features of all three parts, on ``device``; kept under ``cache`` where that is worth it.

    Raises:
        DataError: If a feature is not finite, or the cache cannot be read or written.
    """
    parts: dict[str, Labelled] = {}
    for which in PARTS:
        part: Part = getattr(data, which)
        kept = cache / "features" / f"{_key(encoder, data, shift)}-{which}.npy" if encoder.worth_keeping else None
        if kept is not None and kept.exists():
            features = _read(kept, len(part.labels))
        else:
            features = extract(encoder, part, shift=shift, device=device, progress=progress)
            if kept is not None:
                _write(kept, features)
        parts[which] = Labelled(features.to(device), torch.from_numpy(part.labels).to(device))
    return Features(**parts)


def extract(encoder: Encoder, part: Part, *, shift: Shift, device: str, progress: Progress) -> torch.Tensor:
    """Features float32 (N, F) of a part, on the CPU."""
    encoder.to(device)
    num_images = len(part.labels)
    batches = []
    with torch.inference_mode():
        for first in range(0, num_images, encoder.batch):
            rows = range(first, min(first + encoder.batch, num_images))
            maps = draw_affine_maps(part.source, part.positions[rows.start : rows.stop]) if shift == "affine" else None
            images = prepare(part.read(rows), maps, resize=encoder.resize, crop=encoder.crop)
            features = encoder.apply(images.to(device)).float().cpu()
            if not features.isfinite().all():
                raise DataError(
                    f"{encoder.name}: its features of {part.source} images are not finite, as of a training that "
                    "diverged: use an earlier checkpoint"
                )
            batches.append(features)
            progress(f"{encoder.name}: features", rows.stop, num_images)
    return torch.cat(batches)


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


def _key(encoder: Encoder, data: RealData, shift: Shift) -> str:
    return key_of(encoder.identity, data.sha256, shift)


def _read(path: Path, num_images: int) -> torch.Tensor:
    try:
        features = np.load(path, allow_pickle=False)
        whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == num_images
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
    atomic.write(path, content.getvalue())
