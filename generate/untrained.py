"""Random weights that are the same on every machine: the tiny configurations and the untrained generators."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from genrep.generate import philox

_STREAM = 1 << 16  # far from the streams of samples


def normal_tensors(shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> dict[str, Tensor]:
    """Standard normals, float32; a tensor depends on ``seed``, its place in the mapping and its shape."""
    tensors = {}
    for place, (name, shape) in enumerate(shapes.items()):
        count = int(np.prod(shape))
        values = philox.draw(philox.normal, seed, _STREAM, np.array([place]), view=0, count=count)
        tensors[name] = torch.from_numpy(values.astype(np.float32)).view(shape)
    return tensors
