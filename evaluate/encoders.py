"""Frozen encoders: of runs, and those genrep did not train (TorchScript programs, torchvision's and timm's weights)."""

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import torch
from torch import nn

from genrep.shards.errors import DataError
from genrep.train.backbones import Backbone, build_backbone
from genrep.train.checkpoint import FOLDER, LoadedBackbone, Triple, load_backbone, load_strictly

TORCHSCRIPT = "torchscript"
FORMS = "a run folder of genrep-train, torchscript:FILE, torchvision:NAME:FILE or timm:NAME:FILE"


@dataclass(frozen=True)
class Preparation:
    """How images are prepared for an encoder: side of the crop and short side before it, px; mean and std of [0, 1]."""

    crop: int
    resize: int
    mean: Triple
    std: Triple


IMAGENET = Preparation(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_encoder(checkpoint: Path | str) -> LoadedBackbone:
    """A trained backbone and how its images are prepared.

    Args:
        checkpoint: A run's folder or checkpoint file, or an encoder that genrep did not train: ``torchscript:FILE``,
            ``torchvision:NAME:FILE``, ``timm:NAME:FILE`` (state dicts, a classifier in them is left out). To these
            ``?crop=224&resize=256&mean=0.485,0.456,0.406&std=0.229,0.224,0.225`` may be added; here the defaults.

    Nothing in a state dict is executed. A TorchScript file is a program: it runs, in torch's interpreter, which knows
    the operators of torch and no Python, but among these are some that read and write files.

    Raises:
        DataError: If it cannot be read, or gives no features.
    """
    text = str(checkpoint)
    kind, _, rest = text.partition(":")
    if kind not in (TORCHSCRIPT, "torchvision", "timm"):
        return load_backbone(Path(text))
    place, _, query = rest.partition("?")
    preparation = _preparation(query, where=text)
    name, _, file = place.rpartition(":") if kind != TORCHSCRIPT else (kind, ":", place)
    if not name or not file:
        raise DataError(f"--checkpoint {text!r} is not of a known form: use {FORMS}")
    data = _content(Path(file).expanduser())
    if kind == TORCHSCRIPT:
        module: Backbone = _program(data, preparation, where=file)
    else:
        name = name if kind == "torchvision" else f"timm:{name}"
        module = build(name)
        load_strictly(module, _weights(data, name, where=file), where=f"{file}: the backbone {name}")
    module.eval().requires_grad_(False)
    return LoadedBackbone(
        module=module,
        name=name,
        image_size=preparation.crop,
        resize_size=preparation.resize,
        mean=preparation.mean,
        std=preparation.std,
        sha256=hashlib.sha256(data).hexdigest(),
        config={"backbone": name, "trained_by": "unknown"},
    )


def file_of(checkpoint: Path | str) -> Path:
    """The folder or file that a checkpoint names."""
    kind, _, rest = str(checkpoint).partition(":")
    if kind == TORCHSCRIPT:
        return Path(rest.partition("?")[0]).expanduser()
    if kind in ("torchvision", "timm"):
        return Path(rest.partition("?")[0].rpartition(":")[2]).expanduser()
    return Path(checkpoint)


def run_folder(checkpoint: Path | str) -> Path:
    """The folder of the run that a checkpoint belongs to, or in which an encoder of others lies."""
    path = file_of(checkpoint)
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == FOLDER else path.parent


def build(name: str) -> Backbone:
    """Fresh weights from torch's random state, of a name of genrep-train or ``timm:NAME``.

    Raises:
        DataError: If the name is unknown, or timm is not installed.
    """
    kind, _, of_timm = name.partition(":")
    if kind != "timm":
        return build_backbone(name)
    try:
        import timm
    except ImportError as error:
        raise DataError("timm: encoders need the package timm: pip install 'genrep[timm]'") from error
    try:
        return cast(Backbone, timm.create_model(of_timm, pretrained=False, num_classes=0))
    except RuntimeError as error:
        raise DataError(f"unknown network {of_timm!r} of timm: timm.list_models() names them") from error


class _Program(Backbone):
    """A program that gives features (B, F), or maps (B, F, h, w), which are averaged."""

    def __init__(self, program: nn.Module, *, gives_maps: bool) -> None:
        super().__init__()
        self.gives_maps = gives_maps
        if gives_maps:
            self.blocks = nn.Sequential(_Called(program))  # where maps are looked for
        else:
            self.program = _Called(program)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.blocks(images).mean((2, 3)) if self.gives_maps else self.program(images)


class _Called(nn.Module):
    """A ScriptModule takes no hooks; the module around it does."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.program(images)


def _program(data: bytes, preparation: Preparation, *, where: str) -> Backbone:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that people should save otherwise
            program = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
        with torch.inference_mode():
            features = program(torch.zeros(2, 3, preparation.crop, preparation.crop))
    except Exception as error:  # the interpreter raises whatever the program meets
        reason = " ".join(str(error).split())[-160:]
        raise DataError(
            f"{where} does not run as a TorchScript program on images (2, 3, {preparation.crop}, {preparation.crop}) "
            f"({reason}): save one with torch.jit.save, or give its size as ?crop=N"
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim not in (2, 4) or len(features) != 2:
        raise DataError(f"{where} gives no features (B, F) and no maps (B, F, h, w): script the encoder alone")
    return _Program(program, gives_maps=features.ndim == 4)


def _weights(data: bytes, name: str, *, where: str) -> dict[str, Any]:
    """The state dict in a file, without its classifier."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever it meets in a damaged file
        raise DataError(
            f"{where} cannot be read as a state dict ({' '.join(str(error).split())[:120]}): save one with "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    if not isinstance(state, dict):
        raise DataError(f"{where} holds no state dict of {name}: save one with torch.save(model.state_dict(), FILE)")
    return {key: value for key, value in state.items() if not key.startswith(("fc.", "head.fc.", "classifier."))}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): name the file of an encoder") from error


def _preparation(query: str, *, where: str) -> Preparation:
    def triple(text: str) -> Triple:
        values = [float(word) for word in text.split(",")]
        if len(values) != 3:
            raise ValueError(f"{text} are not three numbers")
        return values[0], values[1], values[2]

    kinds: dict[str, Callable[[str], Any]] = {"crop": int, "resize": int, "mean": triple, "std": triple}
    given: dict[str, Any] = {}
    try:
        for key, text in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
            given[key] = kinds[key](text)
        crop = given.setdefault("crop", IMAGENET.crop)
        given.setdefault("resize", round(crop * IMAGENET.resize / IMAGENET.crop))
        if not 0 < crop <= given["resize"] or min(given.get("std", IMAGENET.std)) <= 0:
            raise ValueError("0 < crop <= resize and 0 < std must hold")
    except (KeyError, ValueError) as error:
        raise DataError(
            f"--checkpoint {where!r}: what follows the question mark is not understood ({error}): "
            "write crop=224&resize=256&mean=0.485,0.456,0.406&std=0.229,0.224,0.225, or a part of it"
        ) from error
    return Preparation(**{"mean": IMAGENET.mean, "std": IMAGENET.std, **given})
