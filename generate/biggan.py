"""BigGAN-deep (Brock et al. 2019) through the package pytorch-pretrained-biggan, with its traps closed.

As the package loads it, the network is in training mode (every call moves the spectral norms, so an image depends on
what was rendered before), accepts a file with missing tensors, interpolates its truncation statistics with the two
weights swapped, and rounds some truncations to the wrong statistics.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrep.generate import imagenet
from genrep.generate.biggan_folded import FoldedBigGan
from genrep.generate.fingerprint import fingerprint
from genrep.generate.unpickling import load_strictly, load_tensors
from genrep.generate.untrained import normal_tensors
from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

_LICENCE = "MIT (file) or Apache-2.0 (metadata) of the package; DeepMind names none"

_SIDES = {"biggan-deep-128": 128, "biggan-deep-256": 256, "biggan-deep-512": 512}

ABOUT = {
    name: {
        "needs": "--weights DIR (config.json and pytorch_model.bin), or a download of 0.2 GB",
        "licence": _LICENCE,
        "latent": "128, truncated normal, 1000 classes",
        "resolution": f"{side} x {side}",
        "source": "pytorch-pretrained-biggan",
    }
    for name, side in _SIDES.items()
}

# sampled like the published networks, small enough for a test; blocks are (upsample?, in, out) in channel widths
_TINY = {
    "output_dim": 32,
    "z_dim": 16,
    "channel_width": 4,
    "num_classes": 1000,
    "layers": [[True, 16, 8], [True, 8, 4], [True, 4, 2], [False, 2, 1]],
    "attention_layer_position": 2,
    "eps": 1e-4,
    "n_stats": 51,
}


class BigGanDeep:
    """Class-conditional images in [-1, 1].

    The prior is a normal cut at two standard deviations, the same for every truncation: :meth:`render` scales the
    latents by the truncation, so that a view at distance sigma is scaled with its anchor, as in the paper.
    """

    prior = "truncated-normal"
    default_std = 1.0  # the paper's strength for BigGAN-deep
    licence = _LICENCE

    def __init__(self, name: str, config: "BigGANConfig", state: dict[str, Tensor], *, source: str, bn: str) -> None:
        """``state``: a state dict of the package's ``BigGAN``. ``bn``: see :func:`deep_128`."""
        if bn not in ("interpolated", "published"):
            raise DataError(f"generator {name}: --generator-arg bn={bn} is unknown; known: interpolated, published")
        self.name = name
        self.bn = bn
        self.truncation = 1.0
        self.model = _network(config)
        load_strictly(self.model, state, source=source)
        self._fingerprint = fingerprint(state, {"name": name, "config": config.to_dict(), "bn": bn})
        self.model.eval().requires_grad_(False)
        _remove_spectral_norm(self.model)
        self.latent_dim = int(config.z_dim)
        self.num_classes = int(config.num_classes)
        self.class_names = imagenet.class_names() if self.num_classes == 1000 else ()
        self.class_groups = imagenet.class_groups() if self.num_classes == 1000 else {}
        side = _side(config)
        self.image_shape = (3, side, side)
        self._statistics = [] if bn == "published" else _take_statistics(self.model)
        self.set_truncation(1.0)

    def fingerprint(self) -> str:
        return self._fingerprint

    def to(self, device: str | torch.device) -> "BigGanDeep":
        self.model.to(device)
        return self

    def set_truncation(self, truncation: float) -> None:
        """Spread of the latents in (0, 1], and the statistics that belong to it."""
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation must lie in (0, 1], got {truncation}; 1.0 keeps the full spread")
        self.truncation = float(truncation)
        for norm, means, variances in self._statistics:
            device = norm.running_means.device
            norm.running_means = interpolate(means, self.truncation)[None].to(device)
            norm.running_vars = interpolate(variances, self.truncation)[None].to(device)

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents (B, D), labels int64 (B,) -> float images (B, 3, H, W) in [-1, 1]."""
        if labels is None:
            raise ValueError(f"{self.name} is conditional: it needs labels")
        one_hot = F.one_hot(labels, self.num_classes).to(latents.dtype)
        return self.model(self.truncation * latents, one_hot, self.truncation)

    def folded(self) -> FoldedBigGan:
        """For rendering at the present truncation."""
        return FoldedBigGan(self.model, self.truncation)


def interpolate(table: Tensor, truncation: float) -> Tensor:
    """Row of ``table`` (N, C) at ``truncation``, where row k holds the statistics for truncation k / (N - 1).

    Linear between two rows, so that a truncation a rounding error away from a row's own (0.14 / 0.02 is more than 7,
    0.58 / 0.02 less than 29) gets that row all the same.
    """
    position = truncation * (len(table) - 1)
    lower = min(int(position), len(table) - 2)
    return torch.lerp(table[lower], table[lower + 1], position - lower)


def _network(config: "BigGANConfig") -> "BigGAN":
    """Without weights worth keeping; the random numbers that they cost are given back."""
    from pytorch_pretrained_biggan import BigGAN

    with torch.random.fork_rng(devices=[]):
        return BigGAN(config)


def _take_statistics(model: nn.Module) -> list[tuple[Any, Tensor, Tensor]]:
    """The tables of every batch norm. The norms are left to read one row, whatever the truncation."""
    from pytorch_pretrained_biggan.model import BigGANBatchNorm

    norms = [module for module in model.modules() if isinstance(module, BigGANBatchNorm)]
    for norm in norms:
        norm.step_size = math.inf  # the package takes row truncation / step_size
    return [(norm, norm.running_means.cpu(), norm.running_vars.cpu()) for norm in norms]


def _remove_spectral_norm(model: nn.Module) -> None:
    """Replace weight_orig / sigma, computed in every call, by its value in eval mode."""
    for module in model.modules():
        if hasattr(module, "weight_orig"):
            nn.utils.remove_spectral_norm(module).requires_grad_(False)


def _side(config: "BigGANConfig") -> int:
    return 4 * 2 ** sum(bool(upsample) for upsample, _, _ in config.layers)


# ------------------------------------------------------------------------------------------------- factories


def deep_128(weights: Path | None = None, *, bn: str = "interpolated", config: str = "published") -> BigGanDeep:
    """BigGAN-deep at 128 px.

    Args:
        weights: Folder with config.json and pytorch_model.bin (or model.safetensors); downloaded if None.
        bn: Truncation statistics: ``interpolated``, or ``published`` for what the package computes.
        config: ``published``, or ``tiny`` for a small network with random weights.
    """
    return _load("biggan-deep-128", weights, bn=bn, config=config)


def deep_256(weights: Path | None = None, *, bn: str = "interpolated", config: str = "published") -> BigGanDeep:
    """BigGAN-deep at 256 px, the paper's class-conditional generator; arguments as :func:`deep_128`."""
    return _load("biggan-deep-256", weights, bn=bn, config=config)


def deep_512(weights: Path | None = None, *, bn: str = "interpolated", config: str = "published") -> BigGanDeep:
    """BigGAN-deep at 512 px; arguments as :func:`deep_128`."""
    return _load("biggan-deep-512", weights, bn=bn, config=config)


def _load(name: str, weights: Path | None, *, bn: str, config: str) -> BigGanDeep:
    if config not in ("published", "tiny"):
        raise DataError(f"generator {name}: --generator-arg config={config} is unknown; known: published, tiny")
    if config == "tiny":
        if weights is not None:
            raise DataError(f"generator {name}: config=tiny has random weights; leave --weights out")
        tiny = _config(_TINY, source=f"{name} config=tiny")
        return BigGanDeep(name, tiny, _random_state(tiny), source=f"{name} config=tiny", bn=bn)
    config_file, state_file = _downloaded(name) if weights is None else _in_folder(name, weights)
    try:
        fields = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{config_file}: no configuration of a BigGAN could be read ({error})") from error
    parsed = _config(fields, source=str(config_file))
    side = _side(parsed)
    if side in _SIDES.values() and side != _SIDES[name]:
        raise DataError(f"{config_file} describes {side} px, {name} renders {_SIDES[name]}: use biggan-deep-{side}")
    return BigGanDeep(name, parsed, load_tensors(state_file), source=str(state_file), bn=bn)


def _in_folder(name: str, folder: Path) -> tuple[Path, Path]:
    config_file, state_file = folder / "config.json", folder / "pytorch_model.bin"
    if not state_file.exists() and (folder / "model.safetensors").exists():
        state_file = folder / "model.safetensors"
    for file in (config_file, state_file):
        if not file.is_file():
            raise DataError(
                f"generator {name}: {file} is missing; --weights takes a folder with config.json and "
                "pytorch_model.bin (or model.safetensors)"
            )
    return config_file, state_file


def _config(fields: Any, *, source: str) -> "BigGANConfig":
    """Check what the package takes on trust, so that a wrong file is named and not met as a traceback."""
    from pytorch_pretrained_biggan import BigGANConfig

    counts = ("z_dim", "channel_width", "num_classes", "n_stats")
    if not isinstance(fields, dict):
        raise DataError(f"{source}: no configuration of a BigGAN: an object of fields is expected")
    config = BigGANConfig.from_dict(fields)
    wrong = [name for name in counts if type(getattr(config, name)) is not int or getattr(config, name) < 1]
    layers = config.layers
    if not (
        isinstance(layers, list | tuple)
        and layers
        and all(isinstance(layer, list | tuple) and len(layer) == 3 for layer in layers)
        and all(type(up) is bool and type(i) is int and type(o) is int and o in (i, i // 2) for up, i, o in layers)
        and layers[0][1] == 16
        and layers[-1][2] == 1
    ):
        wrong.append("layers")
    if wrong:
        raise DataError(f"{source}: no configuration of a BigGAN: {', '.join(wrong)} missing or out of range")
    return config


def _random_state(config: "BigGANConfig") -> dict[str, Tensor]:
    """Random weights with finite outputs and statistics that differ from one truncation to the next."""
    shapes = {name: tuple(tensor.shape) for name, tensor in _network(config).state_dict().items()}
    state = normal_tensors(shapes, seed=0)
    steps = torch.linspace(0, 1, config.n_stats)[:, None]
    for name, tensor in state.items():
        if name.endswith("weight_orig"):
            tensor.div_(math.sqrt(tensor[0].numel()))
            u, v = state[name.replace("_orig", "_u")], state[name.replace("_orig", "_v")]
            u.zero_()[0] = 1  # u W v = 1: the normalised weight is weight_orig itself
            v.zero_()[0] = 1 / tensor.flatten(1)[0, 0]
        elif name.endswith("running_means"):
            tensor.copy_(0.3 * steps * tensor[:1])
        elif name.endswith("running_vars"):
            tensor.copy_(1 + steps * tensor[:1].abs())
        elif name == "generator.bn.weight":
            tensor.fill_(1)
        elif name.endswith(("bias", "gamma")):
            tensor.mul_(0.3)
    state["generator.conv_to_rgb.weight_orig"].mul_(0.3)
    state["generator.conv_to_rgb.weight_v"].div_(0.3)
    return state


# -------------------------------------------------------------------------------------------------- download


def _downloaded(name: str) -> tuple[Path, Path]:
    """(config.json, weights) from the package's cache, filled by the package where it has to be.

    The package asks the network even for what it has, and takes a file that an interrupted download left behind for
    a whole one. A whole file has a description beside it, written last.
    """
    from pytorch_pretrained_biggan.model import PRETRAINED_CONFIG_ARCHIVE_MAP, PRETRAINED_MODEL_ARCHIVE_MAP

    return _cached(name, PRETRAINED_CONFIG_ARCHIVE_MAP[name]), _cached(name, PRETRAINED_MODEL_ARCHIVE_MAP[name])


def _cached(name: str, url: str) -> Path:
    from pytorch_pretrained_biggan.file_utils import PYTORCH_PRETRAINED_BIGGAN_CACHE, cached_path

    cache = Path(PYTORCH_PRETRAINED_BIGGAN_CACHE)
    for description in sorted(cache.glob("*.json")):
        file = description.with_suffix("")
        if file.is_file() and json.loads(description.read_text(encoding="utf-8")).get("url") == url:
            return file
    try:
        file = Path(cached_path(url))
        if not file.with_name(f"{file.name}.json").exists():
            file.unlink()
            file = Path(cached_path(url))
    except OSError as error:
        raise DataError(
            f"generator {name}: its weights could not be downloaded ({type(error).__name__}); put config.json and "
            "pytorch_model.bin into a folder and name it with --weights, or try it without: --generator-arg config=tiny"
        ) from error
    return file
