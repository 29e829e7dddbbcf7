"""A trained backbone for other programs."""

import io
from pathlib import Path

import torch

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.train.backbones import TINY
from genrep.train.checkpoint import LoadedBackbone

FORMATS = ("torchvision",)
NUM_CLASSES = 1000  # of torchvision's classifier


def torchvision_state_dict(backbone: LoadedBackbone) -> dict[str, torch.Tensor]:
    """The weights as ``torchvision.models.get_model(name).load_state_dict`` takes them, strictly.

    The classifier ``fc``, which was never trained, is all zeros.

    Raises:
        DataError: If torchvision has no such model.
    """
    if backbone.name == TINY:
        raise DataError(f"torchvision has no {TINY}: train with --backbone resnet18 to export to torchvision")
    state = {name: value.contiguous() for name, value in backbone.module.state_dict().items()}
    return {
        **state,
        "fc.weight": torch.zeros(NUM_CLASSES, backbone.module.feature_dim),
        "fc.bias": torch.zeros(NUM_CLASSES),
    }


def export(backbone: LoadedBackbone, out: Path, *, format: str) -> None:
    """Write the backbone to the file ``out`` in one of ``FORMATS``."""
    if format != "torchvision":
        raise ValueError(f"no export format {format!r}, there is {', '.join(FORMATS)}")
    content = io.BytesIO()
    torch.save(torchvision_state_dict(backbone), content)
    atomic.write(out, content.getvalue())
