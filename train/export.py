"""A trained backbone for other programs: torchvision, timm, detectron2, ONNX."""

import io
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.train.backbones import TINY
from genrep.train.checkpoint import LoadedBackbone, load_strictly
from genrep.train.config import Triple

NUM_CLASSES = 1000  # of torchvision's classifier

State = dict[str, torch.Tensor]


def torchvision_state_dict(backbone: LoadedBackbone) -> State:
    """The weights as ``torchvision.models.get_model(name).load_state_dict`` takes them, strictly.

    The classifier ``fc``, which was never trained, is all zeros.

    Raises:
        DataError: If torchvision has no such model.
    """
    return {
        **_resnet_state(backbone, "torchvision"),
        "fc.weight": torch.zeros(NUM_CLASSES, backbone.module.feature_dim),
        "fc.bias": torch.zeros(NUM_CLASSES),
    }


def timm_state_dict(backbone: LoadedBackbone) -> State:
    """The weights as ``timm.create_model(name, num_classes=0)`` takes them, strictly; seen to fit.

    Raises:
        DataError: If timm is not installed, has no such model, or its model has other weights.
    """
    state = _resnet_state(backbone, "timm")
    timm = _extra("timm", "timm")
    if not timm.is_model(backbone.name):
        raise DataError(f"timm {timm.__version__} has no {backbone.name}: use --format torchvision")
    model = timm.create_model(backbone.name, num_classes=0)
    load_strictly(model, state, where=f"timm {timm.__version__}: the model {backbone.name}")
    return state


def detectron2_state_dict(backbone: LoadedBackbone) -> State:
    """The weights under the names of detectron2's ResNet, as MoCo's converter for detection gives them.

    stem.conv1, res2 to res5, each norm inside its convolution, the downsampling as ``shortcut``.

    Raises:
        DataError: If it is no ResNet.
    """

    def renamed(name: str) -> str:
        name = name if name.startswith("layer") else f"stem.{name}"
        name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
        name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
        return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")

    return {renamed(name): value for name, value in _resnet_state(backbone, "detectron2").items()}


def onnx_model(backbone: LoadedBackbone) -> bytes:
    """An ONNX model from ``images`` float (B, 3, S, S) in [0, 1] to ``features`` (B, F), for any B; it normalises.

    Its metadata hold under ``genrep`` the backbone's name, the sizes of crop and resize, and the checkpoint's sha256.

    Raises:
        DataError: If the packages for it are not installed.
    """
    for name in ("onnx", "onnxscript"):
        _extra(name, "onnx")
    module = nn.Sequential(_Normalise(backbone.mean, backbone.std), backbone.module).eval()
    images = torch.zeros(2, 3, backbone.image_size, backbone.image_size)
    program = torch.onnx.export(
        module,
        (images,),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    facts = {
        "backbone": backbone.name,
        "image_size": backbone.image_size,
        "resize_size": backbone.resize_size,
        "checkpoint": backbone.sha256,
    }
    model.metadata_props.add(key="genrep", value=json.dumps(facts))
    return model.SerializeToString()


def _saved(state: object) -> bytes:
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


FORMATS: dict[str, Callable[[LoadedBackbone], bytes]] = {
    "torchvision": lambda backbone: _saved(torchvision_state_dict(backbone)),
    "timm": lambda backbone: _saved(timm_state_dict(backbone)),
    # what detectron2's checkpointer looks for before it matches names by their ends
    "detectron2": lambda backbone: _saved(
        {"model": detectron2_state_dict(backbone), "__author__": "genrep", "matching_heuristics": True}
    ),
    "onnx": onnx_model,
}


def export(backbone: LoadedBackbone, out: Path, *, format: str) -> None:
    """Write the backbone to the file ``out`` in one of ``FORMATS``; it appears whole or not at all.

    Raises:
        DataError: If this backbone cannot be put in this format, or the file cannot be written.
    """
    atomic.write(out, FORMATS[format](backbone))


class _Normalise(nn.Module):
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Triple, std: Triple) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


def _resnet_state(backbone: LoadedBackbone, program: str) -> State:
    if backbone.name == TINY:
        raise DataError(f"{program} has no {TINY}: train with --backbone resnet18 to export to {program}")
    return {name: value.contiguous() for name, value in backbone.module.state_dict().items()}


def _extra(package: str, extra: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        raise DataError(f"{package} is not installed: pip install 'genrep[{extra}]'") from error
