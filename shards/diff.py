"""In which respect two sets differ, and by how much."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from genrep.shards.difference import PixelDifference, decoded
from genrep.shards.errors import DataError
from genrep.shards.layout import layout_of
from genrep.shards.location import Location
from genrep.shards.manifest import recipe_differences
from genrep.shards.npy import latents_of
from genrep.shards.reader import ShardDataset

LAYOUT = ("num_samples", "shard_size", "segments", "subset")  # fields that say where samples lie, not what they are
MAX_FIELDS = 8  # of a recipe, told with both values

Fields = list[tuple[str, str, str]]  # dotted name and both values


@dataclass
class Difference:
    """Two sets side by side; samples are matched by their index, images by what they show (``anchor``, ``view1``).

    Attributes:
        recipe: Fields of the recipes that differ and may change samples.
        layout: Fields that differ and only say how samples lie in shards.
        num_samples: Of the first set, of the second, in both.
        lone_images: Images that only one of them has.
        num_labels, num_latents, num_meta: Samples in both that differ in label, latents and ``.json`` member.
        largest_latent: The largest difference of two numbers of the latents; infinite where they do not compare.
        pixels: Of the images in both; empty if they do not compare, being of other shapes.
        shapes: (H, W, C) of both.
        num_encoded: Images in both with other bytes.
        formats: Of both.
    """

    recipe: Fields
    layout: Fields
    num_samples: tuple[int, int, int]
    lone_images: list[str]
    shapes: tuple[tuple[int, int, int], tuple[int, int, int]]
    formats: tuple[str, str]
    num_labels: int = 0
    num_latents: int = 0
    num_meta: int = 0
    largest_latent: float = 0.0
    pixels: PixelDifference = field(default_factory=PixelDifference)
    num_encoded: int = 0
    num_images: int = 0

    @property
    def respects(self) -> list[str]:
        """In what the samples in both differ."""
        found = {
            "labels": self.num_labels > 0,
            "latents": self.num_latents > 0,
            "metadata": self.num_meta > 0,
            "views": bool(self.lone_images),
            "pixels": self.pixels.num_other_values > 0 or self.shapes[0] != self.shapes[1],
            "encoding": self.num_encoded > 0,
        }
        return [name for name, differs in found.items() if differs]

    @property
    def verdict(self) -> str:
        if self.respects:
            return f"different in {', '.join(self.respects)}"
        first, second, both = self.num_samples
        equal = "equal in samples" if first == second == both else f"equal in the {both:,} samples that both have"
        others = [name for name in ("recipe", "layout") if getattr(self, name)]
        return f"{equal}, different in {' and '.join(others)}" if others else "equal"

    def lines(self) -> Mapping[str, str]:
        """What to tell a person, by respect."""
        first, second, both = self.num_samples
        samples = f"{first:,}" if first == second == both else f"{first:,} and {second:,}, {both:,} of them in both"

        def of_samples(count: int, by: str = "") -> str:
            return f"{count:,} of {both:,} samples differ{by}" if count else "equal"

        if self.shapes[0] != self.shapes[1]:
            pixels = f"not compared: {' and '.join(' x '.join(map(str, shape)) for shape in self.shapes)}"
        elif self.pixels.num_other_values:
            pixels = f"{self.pixels}, in {self.pixels.num_other_images:,} of {self.num_images:,} images"
        else:
            pixels = "equal"
        formats = self.formats[0] if self.formats[0] == self.formats[1] else " and ".join(self.formats)
        return {
            "recipe": _told(self.recipe),
            "layout": _told(self.layout),
            "samples": samples,
            "labels": of_samples(self.num_labels),
            "latents": of_samples(self.num_latents, f", by up to {self.largest_latent:.3g}"),
            "metadata": of_samples(self.num_meta),
            "views": f"only one has {', '.join(self.lone_images)}" if self.lone_images else "equal",
            "pixels": pixels,
            "encoding": f"{self.num_encoded:,} of {self.num_images:,} images have other bytes ({formats})"
            if self.num_encoded
            else "equal",
        }


def diff(first: Location, second: Location, *, progress: Callable[[int, int], None] | None = None) -> Difference:
    """Compare two finished sets, or subsets, sample by sample.

    Args:
        progress: Called with the number of samples compared, and of all.

    Raises:
        DataError: If one of them is no finished set, or a member of it cannot be read.
    """
    one, other = ShardDataset(first), ShardDataset(second)
    fields = recipe_differences(one.recipe, other.recipe)
    names, other_names = _image_members(one), _image_members(other)
    shared = [image for image in names if image in other_names]
    common, places, other_places = np.intersect1d(one.indices, other.indices, True, return_indices=True)
    found = Difference(
        recipe=[entry for entry in fields if entry[0] not in LAYOUT],
        layout=[entry for entry in fields if entry[0] in LAYOUT],
        num_samples=(len(one), len(other), len(common)),
        lone_images=sorted(names.keys() ^ other_names.keys()),
        shapes=((*one.image_shape, one.channels), (*other.image_shape, other.channels)),
        formats=(layout_of(one.manifest.recipe).image_format, layout_of(other.manifest.recipe).image_format),
        num_images=len(common) * len(shared),
    )
    rows = [list(names).index(image) for image in shared], [list(other_names).index(image) for image in shared]
    for number, (place, other_place) in enumerate(zip(places.tolist(), other_places.tolist(), strict=True), start=1):
        ours, theirs = one.members(place), other.members(other_place)
        found.num_labels += ours["cls"] != theirs["cls"]
        found.num_meta += ours["json"] != theirs["json"]
        if ours["latents.npy"] != theirs["latents.npy"]:
            apart = _latents_apart(ours["latents.npy"], theirs["latents.npy"], (len(names), len(other_names)), rows)
            found.num_latents += apart != 0
            found.largest_latent = max(found.largest_latent, apart)
        for image in shared:
            our_image, their_image = ours[names[image]], theirs[other_names[image]]
            found.num_encoded += our_image != their_image
            if found.shapes[0] != found.shapes[1]:
                continue
            if our_image == their_image:
                found.pixels.add_equal(found.shapes[0])
                continue
            try:
                found.pixels.add(*decoded(our_image, their_image, shape=found.shapes[0]))
            except DataError as error:
                raise DataError(f"sample {one.index(place)}, {image} of {first} or {second}: {error}") from error
        if progress:
            progress(number, len(common))
    return found


def _image_members(dataset: ShardDataset) -> dict[str, str]:
    """``view1`` -> ``view1.png``, in the order of the latents' rows."""
    return {name.partition(".")[0]: name for name in dataset.member_names[: dataset.num_images]}


def _latents_apart(
    ours: memoryview, theirs: memoryview, num_images: tuple[int, int], rows: tuple[list[int], list[int]]
) -> float:
    """The largest difference between the latents of the images that both have."""
    first, second = (latents_of(data, num_images=num) for data, num in zip((ours, theirs), num_images, strict=True))
    if first.shape[1] != second.shape[1]:
        return float("inf")
    with np.errstate(all="ignore"):
        apart = np.abs(first[rows[0]] - second[rows[1]])
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))


def _told(fields: Fields) -> str:
    told = "; ".join(f"{name} is {one} and {other}" for name, one, other in fields[:MAX_FIELDS])
    more = f"; and {len(fields) - MAX_FIELDS} more" if len(fields) > MAX_FIELDS else ""
    return f"{told}{more}" or "equal"
