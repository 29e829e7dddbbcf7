"""How far the views of a set lie from their anchors in the space of the latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrep.shards.location import RemotePath
from genrep.shards.reader import ShardDataset

MOST = 2000  # samples that are measured


@dataclass(frozen=True)
class Distances:
    """Of S samples, Euclidean.

    Attributes:
        views: float64 (S, K), from each view's latent to its anchor's.
        anchors: float64 (S,), from the anchors' latents to the origin.
    """

    views: NDArray[np.float64]
    anchors: NDArray[np.float64]

    @property
    def relative(self) -> NDArray[np.float64]:
        """float64 (S, K), in lengths of the anchor's latent."""
        return self.views / self.anchors[:, None]


def distances(dataset: ShardDataset, positions: Sequence[int]) -> Distances | None:
    """Measure these samples; None if the set has no anchors, no views or no latents."""
    if not (dataset.has_anchors and dataset.num_views) or not dataset.latents(0).shape[1]:
        return None
    latents = np.stack([dataset.latents(position) for position in positions]).astype(np.float64)
    return Distances(
        views=np.linalg.norm(latents[:, 1:] - latents[:, :1], axis=2), anchors=np.linalg.norm(latents[:, 0], axis=1)
    )


def measured(dataset: ShardDataset, most: int = MOST) -> list[int]:
    """Positions that lie evenly in the set; of a set in a store those of its first shard, the others stay there."""
    within = dataset.shard_counts[0] if isinstance(dataset.folder, RemotePath) else len(dataset)
    return sorted(set(np.linspace(0, within - 1, min(most, within)).round().astype(int).tolist()))
