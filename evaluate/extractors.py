"""What looks at images where sets are compared: our encoder, a network of torch-fidelity, or an untrained one."""

import hashlib
import importlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genrep.evaluate.features import Encoder, backbone_encoder
from genrep.evaluate.floors import untrained_convolution
from genrep.shards.errors import DataError
from genrep.train.checkpoint import load_backbone

INCEPTION = "inception-v3-compat"
OF_TORCH_FIDELITY = (INCEPTION, "vgg16")  # whose weights are a plain state dict


@dataclass(frozen=True)
class Extractor:
    """An encoder, and what a reader of its numbers must know.

    Attributes:
        title: Of its features, in a few words.
        warning: Why distances in its features are not those of papers; None for Inception.
    """

    encoder: Encoder
    title: str
    warning: str | None


def open_extractor(
    *, checkpoint: Path | None = None, name: str | None = None, weights: Path | None = None, side: int, device: str
) -> Extractor:
    """The extractor asked for; without a checkpoint and a name, an untrained convolution.

    Args:
        checkpoint: A run of genrep-train, or a checkpoint in it.
        name: ``inception-v3-compat`` or ``vgg16`` of torch-fidelity, with ``weights``; or ``module:CLASS``, a
            ``FeatureExtractorBase`` of torch-fidelity, whose code is run.
        weights: A state dict as torch-fidelity publishes it; nothing in the file is executed.
        side: Short side to which images are brought where the extractor has no size of its own, px.

    Raises:
        DataError: If it cannot be had.
    """
    if name is not None:
        return _of_torch_fidelity(name, weights, side=side, device=device)
    if checkpoint is not None:
        loaded = load_backbone(checkpoint)
        encoder = backbone_encoder("backbone", loaded, loaded.module, {"checkpoint": loaded.sha256})
        return Extractor(encoder, f"the encoder {checkpoint}", _warning(f"features of the encoder {checkpoint}"))
    title = "an untrained convolution, which learned nothing"
    return Extractor(untrained_convolution(side), title, _warning(f"features of {title}"))


def _warning(of_what: str) -> str:
    return (
        f"These are {of_what}: distances in them are NOT the FID or KID of papers, which are taken in Inception's; "
        "compare them with numbers in the same features only"
    )


def _of_torch_fidelity(name: str, weights: Path | None, *, side: int, device: str) -> Extractor:
    try:
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
        from torch_fidelity.utils import create_feature_extractor
    except ImportError as error:
        raise DataError(f"--extractor needs torch-fidelity ({error}): pip install 'genrep[fidelity]'") from error
    given: dict[str, Any] = {}
    identity: dict[str, Any] = {"extractor": name, "side": side}
    if ":" in name:
        loaded = _own_class(name)
        if FEATURE_EXTRACTORS_REGISTRY.get(name) is not loaded:
            FEATURE_EXTRACTORS_REGISTRY.pop(name, None)
            register_feature_extractor(name, loaded)
        if weights is not None:
            given["feature_extractor_weights_path"] = str(weights)
    elif name in OF_TORCH_FIDELITY:
        if weights is None:
            raise DataError(
                f"--extractor {name} needs its weights: name the file with --extractor-weights "
                "(torch-fidelity publishes it among its releases; nothing is downloaded here)"
            )
        content = _state_dict(weights)
        identity["weights"] = hashlib.sha256(content.getbuffer()).hexdigest()
        given["feature_extractor_weights_path"] = content  # torch.load, which it calls, takes an open file as well
    else:
        raise DataError(f"unknown --extractor {name!r}: use {' or '.join(OF_TORCH_FIDELITY)}, or module:CLASS")
    layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
    try:
        network = create_feature_extractor(name, [layer], cuda=False, verbose=False, **given)
    except (RuntimeError, ValueError, OSError) as error:
        what = " ".join(str(error).split())[:160]
        raise DataError(
            f"--extractor {name} with weights {weights} cannot be made ({what}): name its own weights"
        ) from error

    def apply(images: torch.Tensor) -> torch.Tensor:
        pixels = (images * 255).round().to(torch.uint8)
        return network(pixels.expand(-1, 3, -1, -1))[0]

    encoder = Encoder(name, {**identity, "layer": layer}, side, side, apply, network.to, batch=32, worth_keeping=True)
    is_inception = name == INCEPTION
    return Extractor(
        encoder, f"{name} of torch-fidelity, layer {layer}", None if is_inception else _warning(f"features of {name}")
    )


def _state_dict(path: Path) -> io.BytesIO:
    """The weights of a file, written anew: torch-fidelity loads what it is given with pickle."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever it meets in a damaged file
        what = " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read as weights ({what}): name the file of a state dict") from error
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return content


def _own_class(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"--extractor {name} cannot be loaded ({error}): use module:CLASS of an installed module"
        ) from error
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    if not (isinstance(found, type) and issubclass(found, FeatureExtractorBase)):
        raise DataError(f"--extractor {name} is no FeatureExtractorBase of torch-fidelity: derive it from that class")
    return found
