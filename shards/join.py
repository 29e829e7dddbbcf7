"""A set joined with views that were added to it: read as one set that was generated with all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from genrep.shards.errors import DataError
from genrep.shards.layout import layout_of
from genrep.shards.manifest import manifest_sha256
from genrep.shards.npy import latents_of, npy_header
from genrep.shards.reader import Place, ShardDataset
from genrep.shards.sample import meta_bytes, parse_meta


class JoinedDataset(ShardDataset):
    """The samples of a set, each with its own views and then those of the other one.

    Attributes:
        recipe: Of the set, with the views of both, and with ``joined`` beside: the recipe of the other.
    """

    def __init__(self, folder: Place, join: Place) -> None:
        super().__init__(folder)
        self._added = added = ShardDataset(join)
        recipe = added.manifest.recipe
        parent = recipe.get("parent")
        if parent is None:
            raise DataError(f"{join} holds no added views: name a folder of genrep-shards add-views")
        if parent["manifest_sha256"] != manifest_sha256(self.folder):
            raise DataError(
                f"{join} holds views of another set than {self.folder} (of the one whose manifest has the sha256 "
                f"{parent['manifest_sha256'][:12]}...): name that one, or add the views to this one again"
            )
        ours, theirs = layout_of(self.manifest.recipe), layout_of(recipe)
        facts = [(x.num_samples, x.image_shape, x.image_format) for x in (ours, theirs)]
        if facts[0] != facts[1] or theirs.image_numbers.start != ours.image_numbers.stop or added.folder != added._path:
            raise DataError(f"{join} names {self.folder} as its parent and does not fit it: get the set again")
        self.num_views += added.num_views
        self.recipe = {**self.recipe, "views": [*self.recipe["views"], *recipe["views"]], "joined": recipe}
        self.member_names = [*self.member_names[: ours.num_images], *added.member_names]

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedDataset, (self._path, self._added._path)

    def prefetch(self, positions: Sequence[int]) -> None:
        super().prefetch(positions)
        self._added.prefetch([self.index(position) for position in positions])

    def _members(self, index: int, names: Sequence[str] | None) -> dict[str, memoryview]:
        """Images without a copy; latents and metadata of both put together as one set would hold them."""
        own = super()._members(index, names)
        added = self._added._members(index, names)
        found = own | added
        if "cls" in found and own["cls"] != added["cls"]:
            raise self._added._damage(index, "cls", "is another class than in the parent")
        for member, both in (("latents.npy", self._both_latents), ("json", _both_views)):
            if member in found:
                try:
                    found[member] = memoryview(both(own[member], added[member]))
                except (DataError, ValueError, RecursionError, TypeError, KeyError) as error:
                    raise self._damage(index, member, f"does not fit that of the added views ({error})") from error
        return {name: found[name] for name in self.member_names if name in found}

    def _both_latents(self, own: memoryview, added: memoryview) -> bytes:
        num_added = self._added.num_views
        parts = (latents_of(own, num_images=1 + self.num_views - num_added), latents_of(added, num_images=num_added))
        both = np.concatenate(parts)
        return npy_header(both.shape) + both.tobytes()


def _both_views(own: memoryview, added: memoryview) -> bytes:
    first, second = parse_meta(own), parse_meta(added)
    if first["index"] != second["index"]:
        raise ValueError("another sample")
    first["views"] = first["views"] + second["views"]
    return meta_bytes(first)
