"""What a reader hands out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """An anchor, its K views and what is known of them.

    Attributes:
        index: Sample index in the set.
        images: uint8 (1+K, H, W, 3), RGB, the anchor first; one-channel images repeated to three.
        latents: float32 (1+K, D), row 0 the anchor's, in the space that was rendered.
        label: The class given to the generator (of an imported image: its own), or -1.
        meta: The ``.json`` member: index, class name, kind and parameters of each view.
    """

    index: int
    images: NDArray[np.uint8]
    latents: NDArray[np.float32]
    label: int
    meta: dict[str, Any]
