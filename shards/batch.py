"""What a writer takes in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """B consecutive samples, rendered.

    Attributes:
        first: Sample index of row 0.
        images: uint8 (B, 1+K, H, W, C), C-contiguous, C 1 or 3, the anchor first.
        latents: float32 (B, 1+K, D), in the space that was rendered.
        labels: int64 (B,), -1 where there is none.
        meta: B dicts for the ``.json`` members.
        columns: Further columns of the table, float32 (B,) each, such as ``view1.zoom``.
    """

    first: int
    images: NDArray[np.uint8]
    latents: NDArray[np.float32]
    labels: NDArray[np.int64]
    meta: Sequence[Mapping[str, Any]]
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size, views = self.images.shape[:2]
        fits = {
            "images": self.images.ndim == 5 and self.images.shape[4] in (1, 3) and self.images.dtype == np.uint8,
            "latents": self.latents.shape[:2] == (size, views) and self.latents.dtype == np.float32,
            "labels": self.labels.shape == (size,) and self.labels.dtype == np.int64,
            "meta": len(self.meta) == size,
            **{name: column.shape == (size,) for name, column in self.columns.items()},
        }
        if not all(fits.values()):
            wrong = ", ".join(name for name, fit in fits.items() if not fit)
            raise ValueError(
                f"a batch of {size} samples with {views} images each does not fit in shape or type: {wrong}"
            )

    def __len__(self) -> int:
        return len(self.images)
