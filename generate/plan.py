"""What a recipe will cost, from rendering and encoding a few of its micro-batches; nothing is written."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.generate.generation import Rank
from genrep.generate.recipe import Recipe
from genrep.generate.render import Renderer, render_settings
from genrep.shards.batch import Batch
from genrep.shards.codec import encode
from genrep.shards.layout import IMAGE_FORMATS
from genrep.shards.location import Location

_WARM_UP, _AT_MOST, _LONG_ENOUGH_S = 1, 8, 1.0


@dataclass(frozen=True)
class Plan:
    """Cost of the shards that are still missing.

    Attributes:
        num_images: Images to render, anchors and views.
        images_per_s: Rendered by one process.
        encoded_per_s: Encoded by one thread.
        rank_seconds: What each rank needs; rendering and encoding overlap.
        rank_shards: Shards that each rank still has to write.
        format_bytes: Size of the whole data set, tars and tables, for each image format.
        num_shards: In the whole data set.
        num_missing: Of these, still to be written.
    """

    num_images: int
    images_per_s: float
    encoded_per_s: float
    rank_seconds: tuple[float, ...]
    rank_shards: tuple[int, ...]
    format_bytes: dict[str, int]
    num_shards: int
    num_missing: int

    @property
    def seconds(self) -> float:
        """Until the last rank is done."""
        return max(self.rank_seconds)


def make_plan(recipe: Recipe, renderer: Renderer, out: Location, *, encode_workers: int, rank: Rank) -> Plan:
    """Time a few micro-batches and scale up; a rank writes what is missing of its own shards, and no others."""
    specs = recipe.shards
    there = {spec.name for spec in specs if (out / spec.name).exists()}
    missing = [spec for spec in specs if spec.name not in there]
    images_per_sample = len(recipe.image_numbers)
    with render_settings(recipe):
        batches, seconds = _render_some(recipe, renderer)
    rendered = sum(len(batch.labels) for batch in batches) * images_per_sample
    images_per_s = rendered / seconds
    chosen: dict[str, Any] = {"quality": recipe.image.quality, "subsampling": recipe.image.subsampling}
    sample_bytes = {
        name: _sample_bytes(batches[0], name, **(chosen if name == recipe.image.format else {}))
        for name in IMAGE_FORMATS
    }
    start = time.perf_counter()
    for batch in batches:
        encode(_flat(batch), format=recipe.image.format, **chosen)
    encoded_per_s = rendered / (time.perf_counter() - start)
    shares = [[spec for spec in specs[number :: rank.world] if spec.name not in there] for number in range(rank.world)]
    images_per_s_written = min(images_per_s, encoded_per_s * encode_workers)
    return Plan(
        num_images=sum(spec.count for spec in missing) * images_per_sample,
        images_per_s=images_per_s,
        encoded_per_s=encoded_per_s,
        rank_seconds=tuple(
            sum(spec.count for spec in share) * images_per_sample / images_per_s_written for share in shares
        ),
        rank_shards=tuple(map(len, shares)),
        format_bytes={name: math.ceil(size * recipe.num_samples) for name, size in sample_bytes.items()},
        num_shards=len(specs),
        num_missing=len(missing),
    )


def show_plan(plan: Plan, recipe: Recipe, out: Location, *, rank: Rank, device: str) -> str:
    """The plan as a few lines for a terminal."""
    chosen = recipe.image.format
    largest = plan.format_bytes[chosen] * max(plan.rank_shards) / plan.num_shards
    others = ", ".join(f"{name} {_size(size)}" for name, size in plan.format_bytes.items() if name != chosen)
    return "\n".join(
        [
            f"folder     {out}",
            f"images     {plan.num_images:,} to render on {device}, {recipe.image.height} x {recipe.image.width} px",
            f"speed      {plan.images_per_s:,.0f} images/s rendered a rank, {plan.encoded_per_s:,.0f} encoded a thread",
            f"time       {_duration(plan.seconds)} with {rank.world} rank{'s' * (rank.world > 1)}",
            f"size       {_size(plan.format_bytes[chosen])} as {chosen} ({others})",
            f"shards     {plan.num_missing:,} to write of {plan.num_shards:,}, {recipe.shard_size:,} samples each",
            f"per rank   {_range(plan.rank_shards)} shards, {_size(largest)} and {_duration(plan.seconds)} at most",
        ]
    )


def _render_some(recipe: Recipe, renderer: Renderer) -> tuple[list[Batch], float]:
    """Micro-batches from the beginning of the data set and the seconds they took, after a warm-up."""
    size = recipe.render.micro_batch
    batches: list[Batch] = []
    start = 0.0
    for number, batch in enumerate(renderer.batches(0, size * (_WARM_UP + _AT_MOST))):
        if number < _WARM_UP:
            start = time.perf_counter()
            continue
        batches.append(batch)
        if time.perf_counter() - start > _LONG_ENOUGH_S:
            break
    return batches, time.perf_counter() - start


def _flat(batch: Batch) -> NDArray[np.uint8]:
    return batch.images.reshape(-1, *batch.images.shape[2:])


def _sample_bytes(batch: Batch, image_format: str, **how: Any) -> float:
    """Mean bytes of a sample: its members as tar blocks, and about 80 bytes a member in the table."""
    images = [len(image) for image in encode(_flat(batch), format=image_format, **how)]
    others = [128 + batch.latents[0].nbytes, 2, len(json.dumps(batch.meta[0]))]
    members = len(images) / len(batch.labels) + len(others)
    blocks = sum(map(_blocks, images)) / len(batch.labels) + sum(map(_blocks, others))
    return 512 * blocks + 80 * members


def _blocks(size: int) -> int:
    return 1 + math.ceil(size / 512)


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
