"""Where things lie in a dataset folder, and what they are called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrep.shards.errors import DataError

FORMAT = "genrep/1"
RECIPE = "recipe.json"  # first
MANIFEST = "manifest.json"  # last: its presence means finished
README = "README.md"
WIDS_INDEX = "shards.json"
TABLES = ".tables"  # a dot-folder, or datasets.load_dataset would take the tables for the data

IMAGE_FORMATS = ("png", "jpg", "webp")
KEY_DIGITS = 9
MAX_SAMPLES = 10**KEY_DIGITS
MAX_SHARDS = 10**6  # a shard's number has six


@dataclass(frozen=True)
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
        return [key(index) for index in range(self.first, self.first + self.count)]


@dataclass(frozen=True)
class SetLayout:
    """What a recipe says of the files of its set.

    Attributes:
        num_views: K, without the anchor.
        image_format: ``png``, ``jpg`` or ``webp``.
        quality: Of the encoder; None is its default.
        image_shape: (H, W, C) of every image.
    """

    num_samples: int
    shard_size: int
    num_views: int
    image_format: str
    quality: int | None
    image_shape: tuple[int, int, int]

    @property
    def members(self) -> list[str]:
        """Members of every sample in archive order, each named ``<key>.<member>``."""
        return members(self.num_views, self.image_format)

    @property
    def shards(self) -> list[ShardSpec]:
        return plan_shards(self.num_samples, self.shard_size)


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
            num_views=len(recipe["views"]),
            image_format=image["format"],
            quality=image["quality"],
            image_shape=(image["height"], image["width"], image["channels"]),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"the recipe has no usable field {error}: make it with this version of genrep") from error
    sizes = (layout.num_samples, layout.shard_size, *layout.image_shape)
    if recipe.get("format") != FORMAT or not all(type(size) is int and size > 0 for size in sizes):
        raise DataError(
            f"the recipe is of format {recipe.get('format')!r} with sizes {sizes}; "
            f"this version of genrep reads {FORMAT!r} with positive whole numbers"
        )
    if layout.image_format not in IMAGE_FORMATS or layout.image_shape[2] not in (1, 3):
        raise DataError(
            f"the recipe asks for {layout.image_format!r} images of {layout.image_shape[2]} channels; "
            f"there are {', '.join(IMAGE_FORMATS)} and 1 or 3 channels"
        )
    return layout


def default_shard_size(height: int, width: int) -> int:
    """Samples a shard, so that one stays between some ten and some hundred megabytes."""
    side = max(height, width)
    return 4096 if side <= 64 else 2048 if side <= 128 else 1024 if side <= 256 else 256


def plan_shards(num_samples: int, shard_size: int) -> list[ShardSpec]:
    """Cut a set into shards; only the last may be short.

    Raises:
        DataError: If keys of nine or shard numbers of six digits do not suffice.
    """
    if not 0 < num_samples <= MAX_SAMPLES:
        raise DataError(f"a set holds 1 to {MAX_SAMPLES:,} samples, not {num_samples:,}: write several sets")
    if shard_size < 1 or -(-num_samples // shard_size) > MAX_SHARDS:
        raise DataError(
            f"shards of {shard_size:,} samples would make more than {MAX_SHARDS:,} files of {num_samples:,} samples: "
            "choose a larger shard size"
        )
    return [
        ShardSpec(f"shard-{number:06d}.tar", first, min(shard_size, num_samples - first))
        for number, first in enumerate(range(0, num_samples, shard_size))
    ]


def key(index: int) -> str:
    """Key of a sample, its index in nine digits."""
    return f"{index:0{KEY_DIGITS}d}"


def members(num_views: int, image_format: str) -> list[str]:
    """Members of every sample in archive order: the images, anchor first, then what belongs to them."""
    views = [f"view{view}.{image_format}" for view in range(1, num_views + 1)]
    return [f"anchor.{image_format}", *views, "latents.npy", "cls", "json"]
