"""Where things lie in a dataset folder, and what they are called."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from genrep.shards.errors import DataError

FORMAT = "genrep/1"
RECIPE = "recipe.json"  # first
MANIFEST = "manifest.json"  # last: its presence means finished
README = "README.md"
WIDS_INDEX = "shards.json"
TABLES = ".tables"  # a dot-folder, or datasets.load_dataset would take the tables for the data

IMAGE_FORMATS = ("png", "jpg", "webp")
FULL_COLOUR = "4:4:4"
SUBSAMPLINGS = (FULL_COLOUR, "4:2:0")
KEY_DIGITS = 9
MAX_SAMPLES = 10**KEY_DIGITS
MAX_SHARDS = 10**6  # a shard's number has six
MAX_SHARD_SIZE = 2**20  # samples; a shard lies in memory until it is whole
MAX_VIEWS = 1000
MAX_PIXELS = 2**26  # of one image; larger ones are refused unread


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """One shard of the plan: sample indices ``first`` to ``first + count - 1``."""

    name: str
    first: int
    count: int

    @property
    def table(self) -> str:
        """Path of its table in the folder."""
        return f"{TABLES}/{self.name.removesuffix('.tar')}.parquet"

    @property
    def keys(self) -> list[str]:
        return list(map(f"%0{KEY_DIGITS}d".__mod__, range(self.first, self.first + self.count)))


@dataclass(frozen=True)
class SetLayout:
    """What a recipe says of the files of its set.

    Attributes:
        segments: Samples of each run that made the set grow, in order; one number for a set that never grew.
        image_numbers: Of the images of a sample: 0 is the anchor, k its k-th view. Views that were added to a parent
            are numbered after the parent's, and there is no anchor beside them.
        image_format: ``png``, ``jpg`` or ``webp``.
        quality: Of the encoder; None is its default.
        subsampling: Of the colours of a jpg, one of ``SUBSAMPLINGS``.
        image_shape: (H, W, C) of every image.
    """

    num_samples: int
    shard_size: int
    segments: tuple[int, ...]
    image_numbers: range
    image_format: str
    quality: int | None
    subsampling: str
    image_shape: tuple[int, int, int]

    @property
    def num_images(self) -> int:
        """Images of a sample."""
        return len(self.image_numbers)

    @property
    def members(self) -> list[str]:
        """Members of every sample in archive order, each named ``<key>.<member>``."""
        return members(self.image_numbers, self.image_format)

    @property
    def shards(self) -> list[ShardSpec]:
        return plan_shards(self.num_samples, self.shard_size, segments=self.segments)


def layout_of(recipe: Mapping[str, Any]) -> SetLayout:
    """Read the layout from a recipe.

    Raises:
        DataError: If a field is missing or is no such thing.
    """
    try:
        image = recipe["image"]
        layout = SetLayout(
            num_samples=recipe["num_samples"],
            shard_size=recipe["shard_size"],
            segments=tuple(recipe.get("segments") or [recipe["num_samples"]]),
            image_numbers=_image_numbers(recipe["views"], recipe.get("parent")),
            image_format=image["format"],
            quality=image["quality"],
            subsampling=image.get("subsampling", FULL_COLOUR),
            image_shape=(image["height"], image["width"], image["channels"]),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"the recipe has no usable field {error}: make it with this version of genrep") from error
    sizes = (layout.num_samples, layout.shard_size, *layout.image_shape, *layout.segments)
    if recipe.get("format") != FORMAT or not all(type(size) is int and size > 0 for size in sizes):
        raise DataError(
            f"the recipe is of format {recipe.get('format')!r:.40} with sizes {sizes!s:.80}; "
            f"this version of genrep reads {FORMAT!r} with positive whole numbers"
        )
    height, width, _ = layout.image_shape
    if layout.shard_size > MAX_SHARD_SIZE or layout.image_numbers.stop > 1 + MAX_VIEWS or height * width > MAX_PIXELS:
        raise DataError(
            f"the recipe asks for shards of {layout.shard_size:,} samples with {layout.num_images:,} images of "
            f"{height:,} x {width:,} pixels; at most {MAX_SHARD_SIZE:,}, {1 + MAX_VIEWS:,} and {MAX_PIXELS:,} pixels "
            "are read"
        )
    if sum(layout.segments) != layout.num_samples:
        raise DataError(f"the recipe has segments that are not its {layout.num_samples:,} samples together")
    if layout.image_format not in IMAGE_FORMATS or layout.image_shape[2] not in (1, 3):
        raise DataError(
            f"the recipe asks for {layout.image_format!r:.40} images of {layout.image_shape[2]} channels; "
            f"there are {', '.join(IMAGE_FORMATS)} and 1 or 3 channels"
        )
    channels = layout.image_shape[2]
    complaint = subsampling_complaint(layout.subsampling, image_format=layout.image_format, channels=channels)
    if complaint:
        raise DataError(f"the recipe asks for what cannot be: {complaint}")
    return layout


def subsampling_complaint(subsampling: str, *, image_format: str, channels: int) -> str:
    """What is wrong with a subsampling of the colours of these images; empty if nothing is."""
    if subsampling not in SUBSAMPLINGS:
        return f"subsampling {subsampling!r:.40} is not known; known: {', '.join(SUBSAMPLINGS)}"
    if subsampling != FULL_COLOUR and (image_format, channels) != ("jpg", 3):
        return f"subsampling {subsampling} is for jpg of 3 channels, the images are {image_format} of {channels}"
    return ""


def _image_numbers(views: Sequence[str], parent: Mapping[str, Any] | None) -> range:
    """Raises KeyError or TypeError for views or a parent that cannot be."""
    if not isinstance(views, list):
        raise TypeError("views: they are a list")
    if parent is None:
        return range(1 + len(views))
    manifest_hash = parent["manifest_sha256"]
    if not views or not (isinstance(manifest_hash, str) and re.fullmatch("[0-9a-f]{64}", manifest_hash)):
        raise TypeError("parent: it needs the sha256 of a manifest, and views beside it")
    first = 1 + len(parent["views"])
    return range(first, first + len(views))


def default_shard_size(height: int, width: int) -> int:
    """Samples a shard, so that one stays between some ten and some hundred megabytes."""
    side = max(height, width)
    return 4096 if side <= 64 else 2048 if side <= 128 else 1024 if side <= 256 else 256


def plan_shards(num_samples: int, shard_size: int, *, segments: Sequence[int] = ()) -> list[ShardSpec]:
    """Cut a set into shards; only the last of a segment may be short.

    Args:
        segments: Samples of each run that made the set grow, ``num_samples`` together; by default it never grew.

    Raises:
        DataError: If keys of nine or shard numbers of six digits do not suffice.
    """
    segments = segments or [num_samples]
    if not 0 < num_samples <= MAX_SAMPLES:
        raise DataError(f"a set holds 1 to {MAX_SAMPLES:,} samples, not {num_samples:,}: write several sets")
    if shard_size < 1 or sum(-(-segment // shard_size) for segment in segments) > MAX_SHARDS:
        raise DataError(
            f"shards of {shard_size:,} samples would make more than {MAX_SHARDS:,} files of {num_samples:,} samples: "
            "choose a larger shard size"
        )
    ends = list(accumulate(segments))
    cuts = [
        (first, min(shard_size, end - first))
        for segment, end in zip(segments, ends, strict=True)
        for first in range(end - segment, end, shard_size)
    ]
    return [ShardSpec(f"shard-{number:06d}.tar", first, count) for number, (first, count) in enumerate(cuts)]


def key(index: int) -> str:
    """Key of a sample, its index in nine digits."""
    return f"{index:0{KEY_DIGITS}d}"


def members(image_numbers: Iterable[int], image_format: str) -> list[str]:
    """Members of every sample in archive order: the images, anchor first, then what belongs to them."""
    images = [f"view{number}.{image_format}" if number else f"anchor.{image_format}" for number in image_numbers]
    return [*images, "latents.npy", "cls", "json"]
