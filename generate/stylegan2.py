"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), configuration f and ADA, from the files people hold.

Three layouts are read, all through the restricted unpickler, so that no code in a file runs: NVIDIA's PyTorch pickles
(ADA), NVIDIA's TensorFlow pickles (configuration f), and the ``.pt`` files of the PyTorch port by rosinality
(``g_ema``). The first one's names are used for all: ``mapping.fc0.weight``, ``synthesis.b8.conv0.weight``, ...
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrep.generate.fingerprint import fingerprint
from genrep.generate.philox import normal
from genrep.generate.pickled import Record
from genrep.generate.unpickling import load_tensors, module_tensors
from genrep.generate.untrained import normal_tensors
from genrep.shards.errors import DataError
from genrep.shards.philox import philox

_LICENCE = "NVIDIA Source Code License, non-commercial (weights)"

ABOUT = {
    "stylegan2": {
        "needs": "--weights FILE (.pkl of NVIDIA, .pt with g_ema)",
        "licence": _LICENCE,
        "latent": "512, normal; w: 512",
        "resolution": "of the file; rows=64-447 for cars: 384 x 512",
        "source": "NVIDIA, config-f and ADA",
    }
}

_KERNEL = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64
_EPSILON = 1e-8
_NOISE_KEY = (0x5354594C, 0x4532474E)  # of random words for nothing else
_MEAN_SAMPLES = 4096  # of w, where the file has no mean


# --------------------------------------------------------------------------------------------------- network


class _Tensors:
    """The tensors of a file by name; all must be asked for in the end."""

    def __init__(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        self._left = dict(tensors)
        self.source = source

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, *shape: int | None) -> Tensor:
        """The tensor in float32; None in ``shape`` stands for any size."""
        if name not in self._left:
            raise DataError(f"{self.source}: no StyleGAN2 generator could be read from it: {name} is missing")
        tensor = self._left.pop(name)
        if len(tensor.shape) != len(shape) or any(
            side not in (None, found) for side, found in zip(shape, tensor.shape, strict=True)
        ):
            raise DataError(f"{self.source}: {name} has shape {tuple(tensor.shape)}, {shape} is expected")
        return tensor.float()

    def finish(self) -> None:
        if self._left:
            names = ", ".join(list(self._left)[:3])
            raise DataError(f"{self.source}: no StyleGAN2 generator: {len(self._left)} unknown tensors ({names}, ...)")


class _Linear(nn.Module):
    """Equalised learning rate (Karras et al. 2018): the gain is folded into the weights."""

    weight: Tensor
    bias: Tensor

    def __init__(self, tensors: _Tensors, prefix: str, *, in_dim: int | None = None, rate: float = 1.0) -> None:
        super().__init__()
        weight = tensors.take(f"{prefix}.weight", None, in_dim)
        self.register_buffer("weight", weight * (rate / math.sqrt(weight.shape[1])))
        self.register_buffer("bias", tensors.take(f"{prefix}.bias", len(weight)) * rate)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Mapping(nn.Module):
    """z (B, D), one-hot labels (B, C) or None -> w (B, D')."""

    def __init__(self, tensors: _Tensors, *, rate: float) -> None:
        super().__init__()
        self.embed = _Linear(tensors, "mapping.embed") if "mapping.embed.weight" in tensors else None
        layers: list[_Linear] = []
        while f"mapping.fc{len(layers)}.weight" in tensors:
            width = len(layers[-1].bias) if layers else None
            layers.append(_Linear(tensors, f"mapping.fc{len(layers)}", in_dim=width, rate=rate))
        if not layers:
            raise DataError(f"{tensors.source}: no StyleGAN2 generator could be read from it: it has no mapping")
        self.layers: Any = nn.ModuleList(layers)
        self.embed_dim = 0 if self.embed is None else len(self.embed.bias)
        self.num_classes = 0 if self.embed is None else self.embed.weight.shape[1]
        self.z_dim = layers[0].weight.shape[1] - self.embed_dim
        self.w_dim = len(layers[-1].bias)

    def forward(self, z: Tensor, one_hot: Tensor | None) -> Tensor:
        x = _normalised(z)
        if self.embed is not None:
            x = torch.cat([x, _normalised(self.embed(one_hot))], dim=1)
        for layer in self.layers:
            x = _activated(layer(x))
        return x


class _StyledConv(nn.Module):
    """Modulated convolution, noise, bias, activation; doubles the resolution if ``up``.

    Styles scale the input and demodulation the output, which equals scaling the weights for every sample
    (equations 1 and 3) and needs one convolution for the whole batch.
    """

    weight: Tensor
    squares: Tensor
    bias: Tensor
    noise_strength: Tensor
    noise: Tensor

    def __init__(
        self, tensors: _Tensors, prefix: str, *, channels: int, w_dim: int, side: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.up = prefix.endswith("conv0")
        self.clamp = clamp
        self.affine = _Linear(tensors, f"{prefix}.affine", in_dim=w_dim)
        weight = tensors.take(f"{prefix}.weight", None, channels, 3, 3) / math.sqrt(9 * channels)
        self.register_buffer("squares", weight.square().sum(dim=(2, 3)).T.contiguous())
        self.register_buffer("weight", weight.transpose(0, 1).contiguous() if self.up else weight)
        self.register_buffer("bias", tensors.take(f"{prefix}.bias", len(weight)))
        self.out_channels = len(weight)
        self.side = side
        self.has_noise = f"{prefix}.noise_strength" in tensors
        if self.has_noise:
            self.register_buffer("noise_strength", tensors.take(f"{prefix}.noise_strength"))
            self.register_buffer("noise", tensors.take(f"{prefix}.noise_const", side, side))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """``noise``: (B, 1, H, W) or (H, W), of unit variance."""
        style = self.affine(w)
        x = x * style[:, :, None, None]
        x = _blurred(F.conv_transpose2d(x, self.weight, stride=2)) if self.up else F.conv2d(x, self.weight, padding=1)
        x = x * torch.rsqrt(style.square() @ self.squares + _EPSILON)[:, :, None, None]
        if noise is not None and self.has_noise:
            x = x + self.noise_strength * noise
        x = _activated(x + self.bias[:, None, None])
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class _ToRgb(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, tensors: _Tensors, prefix: str, *, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = _Linear(tensors, f"{prefix}.affine", in_dim=w_dim)
        self.register_buffer("weight", tensors.take(f"{prefix}.weight", None, channels, 1, 1) / math.sqrt(channels))
        self.register_buffer("bias", tensors.take(f"{prefix}.bias", len(self.weight)))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = F.conv2d(x * self.affine(w)[:, :, None, None], self.weight, self.bias)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Network(nn.Module):
    """Mapping and synthesis with skip connections, built to the shapes of the tensors.

    Args:
        tensors: By the names of NVIDIA's PyTorch release.
        source: The file, for messages.
        clamp: Bound of every layer's output (256 in ADA), or None.
        rate: Learning rate of the mapping relative to the rest, part of the equalised weights.
    """

    w_mean: Tensor | None
    const: Tensor

    def __init__(
        self, tensors: Mapping[str, Tensor], *, source: str, clamp: float | None = None, rate: float = 0.01
    ) -> None:
        super().__init__()
        left = _Tensors({name: t for name, t in tensors.items() if not name.endswith("resample_filter")}, source=source)
        _check_filters(tensors, source=source)
        self.mapping = _Mapping(left, rate=rate)
        w_dim = self.mapping.w_dim
        self.register_buffer("w_mean", left.take("mapping.w_avg", w_dim) if "mapping.w_avg" in left else None)
        self.register_buffer("const", left.take("synthesis.b4.const", None, 4, 4))
        convs: list[_StyledConv] = []
        rgbs: list[_ToRgb] = []
        channels, side = len(self.const), 4
        while f"synthesis.b{side}.conv1.weight" in left:
            for name in ("conv0", "conv1") if side > 4 else ("conv1",):
                prefix = f"synthesis.b{side}.{name}"
                convs.append(_StyledConv(left, prefix, channels=channels, w_dim=w_dim, side=side, clamp=clamp))
                channels = convs[-1].out_channels
            rgbs.append(_ToRgb(left, f"synthesis.b{side}.torgb", channels=channels, w_dim=w_dim, clamp=clamp))
            side *= 2
        left.finish()
        self.convs: Any = nn.ModuleList(convs)
        self.rgbs: Any = nn.ModuleList(rgbs)
        self.side = side // 2
        self.num_layers = len(convs) + 1  # the last one colours

    def forward(self, w: Tensor, noises: Sequence[Tensor | None]) -> Tensor:
        """w (B, D') or a w for each layer (B, num_layers, D'), a noise a convolution -> images (B, C, H, W).

        The images lie about in [-1, 1]. A block's colours take the w of the convolution that comes next.
        """
        styles = (w if w.ndim == 3 else w[:, None].expand(-1, self.num_layers, -1)).unbind(dim=1)
        x = self.convs[0](self.const.expand(len(w), -1, -1, -1), styles[0], noises[0])
        image = self.rgbs[0](x, styles[1])
        for block, rgb in enumerate(self.rgbs[1:]):
            for layer in (2 * block + 1, 2 * block + 2):
                x = self.convs[layer](x, styles[layer], noises[layer])
            image = _doubled(image) + rgb(x, styles[2 * block + 3])
        return image

    def noises(self) -> list[Tensor | None]:
        """The noise of every layer as stored in the file, (H, W)."""
        return [conv.noise if conv.has_noise else None for conv in self.convs]


def _normalised(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + _EPSILON)


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def _blurred(x: Tensor) -> Tensor:
    """(B, C, 2H + 1, 2W + 1) -> (B, C, 2H, 2W): the low-pass filter after a transposed convolution."""
    planes = x.reshape(-1, 1, *x.shape[2:])
    return F.conv2d(planes, 4 * _KERNEL.to(x)[None, None], padding=1).unflatten(0, x.shape[:2]).squeeze(2)


def _doubled(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W) by the same filter."""
    planes = image.reshape(-1, 1, *image.shape[2:])
    kernel = 4 * _KERNEL.to(image)[None, None]
    return F.conv_transpose2d(planes, kernel, stride=2, padding=1).unflatten(0, image.shape[:2]).squeeze(2)


def _check_filters(tensors: Mapping[str, Tensor], *, source: str) -> None:
    for name, tensor in tensors.items():
        if name.endswith("resample_filter") and not (
            tensor.shape == _KERNEL.shape and torch.allclose(tensor.float(), _KERNEL)
        ):
            raise DataError(f"{source}: {name} is not the filter 1-3-3-1 of StyleGAN2; such variants are not supported")


def seeded_noise(seeds: Tensor, *, layer: int, side: int) -> Tensor:
    """Standard normals (B, 1, side, side), float32; row b depends on ``seeds[b]`` (int64 >= 0), layer and side."""
    count = side * side
    result = np.empty((len(seeds), count), np.float32)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    for row, seed in enumerate(seeds.tolist()):
        counter = [blocks, *(np.full(1, word, np.uint64) for word in (layer, seed & 0xFFFFFFFF, seed >> 32))]
        words = np.stack(philox(counter, _NOISE_KEY), axis=-1)
        result[row] = normal(words.reshape(-1)[:count])
    return torch.from_numpy(result).view(-1, 1, side, side).to(seeds.device)


# ------------------------------------------------------------------------------------------------- generators


class StyleGan2:
    """Images in [-1, 1] from z (a plain normal) or w; the noise maps are those of the file, the same for all images."""

    name = "stylegan2"
    default_std = 0.25  # the paper's strength for StyleGAN2 car
    licence = _LICENCE

    def __init__(self, network: Network, *, fingerprint: str, rows: range | None, noise: str) -> None:
        self.network = network.eval()
        self.noise = noise
        self.truncation = 1.0
        self.latent_dim = network.mapping.z_dim
        self.num_classes = network.mapping.num_classes
        self.num_layers = network.num_layers
        self._rows = slice(None) if rows is None else slice(rows.start, rows.stop)
        self._fingerprint = fingerprint
        height = network.side if rows is None else len(rows)
        self.image_shape = (len(network.rgbs[0].bias), height, network.side)

    def fingerprint(self) -> str:
        return self._fingerprint

    def to(self, device: str | torch.device) -> "StyleGan2":
        self.network.to(device)
        return self

    def set_truncation(self, truncation: float) -> None:
        """psi in (0, 1]: w moves towards the mean of w (Karras et al. 2019, section 2)."""
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation must lie in (0, 1], got {truncation}; 1.0 keeps the full spread")
        self.truncation = float(truncation)
        if truncation < 1 and self.network.w_mean is None:
            self.network.w_mean = self._mean_w()

    @torch.no_grad()
    def _mean_w(self) -> Tensor:
        latents = normal_tensors({"z": (_MEAN_SAMPLES, self.latent_dim)}, seed=0)["z"].to(self.network.const.device)
        one_hot = None
        if self.num_classes:
            one_hot = self._one_hot(torch.arange(_MEAN_SAMPLES, device=latents.device) % self.num_classes)
        return self.network.mapping(latents, one_hot).mean(dim=0)

    def _one_hot(self, labels: Tensor | None) -> Tensor | None:
        if not self.num_classes:
            return None
        if labels is None:
            raise ValueError("this StyleGAN2 is conditional: it needs labels")
        return F.one_hot(labels, self.num_classes).to(self.network.const.dtype)

    def map(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """z (B, D) -> w (B, D'), truncated."""
        w = self.network.mapping(latents, self._one_hot(labels))
        mean = self.network.w_mean
        return w if self.truncation == 1 or mean is None else torch.lerp(mean, w, self.truncation)

    def render_mapped(self, mapped: Tensor, labels: Tensor | None) -> Tensor:
        """w (B, D'), or w+ (B, num_layers * D') -> images; ``labels`` acted in :meth:`map`."""
        if self.noise == "none":
            return self._images(mapped, [None] * len(self.network.convs))
        return self._images(mapped, self.network.noises())

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """z (B, D), labels int64 (B,) or None -> float images (B, C, H, W) in [-1, 1]."""
        return self.render_mapped(self.map(latents, labels), labels)

    def _images(self, mapped: Tensor, noises: Sequence[Tensor | None]) -> Tensor:
        w_dim = self.network.mapping.w_dim
        w = mapped if mapped.shape[1] == w_dim else mapped.unflatten(1, (self.num_layers, w_dim))
        return self.network(w, noises)[:, :, self._rows].clamp(-1, 1)


class SeededStyleGan2(StyleGan2):
    """With noise maps of its own for every image, made from a seed."""

    def render_mapped(self, mapped: Tensor, labels: Tensor | None, noise_seeds: Tensor | None = None) -> Tensor:
        """As :meth:`StyleGan2.render_mapped`; ``noise_seeds``: int64 (B,)."""
        if noise_seeds is None:
            raise ValueError("noise=seeded needs noise_seeds")
        noises = [
            seeded_noise(noise_seeds, layer=layer, side=conv.side).to(mapped.dtype)
            for layer, conv in enumerate(self.network.convs)
        ]
        return self._images(mapped, noises)

    def render(self, latents: Tensor, labels: Tensor | None, noise_seeds: Tensor | None = None) -> Tensor:
        """As :meth:`StyleGan2.render`; ``noise_seeds``: int64 (B,)."""
        return self.render_mapped(self.map(latents, labels), labels, noise_seeds)


def stylegan2(
    weights: Path | None = None, *, rows: str = "", noise: str = "fixed", config: str = "published"
) -> StyleGan2:
    """StyleGAN2 from a file.

    Args:
        weights: NVIDIA's ``.pkl`` (ADA or configuration f), or a ``.pt`` with ``g_ema``.
        rows: First and last row of the square image to keep, such as ``64-447`` for cars.
        noise: ``fixed`` (the maps of the file), ``seeded`` (maps of its own for every sample) or ``none``.
        config: ``published``, or ``tiny`` and ``tiny-classes`` for a small network with random weights.
    """
    if noise not in ("fixed", "seeded", "none"):
        raise DataError(f"generator stylegan2: noise={noise} is unknown; known: fixed, seeded, none")
    if config not in ("published", "tiny", "tiny-classes"):
        raise DataError(f"generator stylegan2: config={config} is unknown; known: published, tiny, tiny-classes")
    if (weights is None) == (config == "published"):
        raise DataError(
            "generator stylegan2: name a .pkl of NVIDIA or a .pt with g_ema by --weights FILE, or try it without "
            "by --generator-arg config=tiny"
        )
    settings: dict[str, Any] = {}
    if weights is None:
        tensors = _random_tensors(num_classes=4 if config == "tiny-classes" else 0)
    else:
        tensors, settings = read_tensors(weights)
    network = Network(tensors, source=str(weights or config), **settings)
    network.requires_grad_(False)
    identity = fingerprint(tensors, {"name": "stylegan2", "rows": rows, "noise": noise, **settings})
    kind = SeededStyleGan2 if noise == "seeded" else StyleGan2
    return kind(network, fingerprint=identity, rows=_parse_rows(rows, network.side), noise=noise)


def _parse_rows(text: str, side: int) -> range | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    rows = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    if not rows or rows.stop > side:
        raise DataError(f"generator stylegan2: rows={text} must be FIRST-LAST within 0-{side - 1}, such as 64-447")
    return rows


# ------------------------------------------------------------------------------------------------ file layouts


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a generator by NVIDIA's PyTorch names, and the settings of :class:`Network` beside them."""
    content = load_tensors(path)
    if isinstance(content, dict) and isinstance(content.get("G_ema"), Record):
        return _from_ada(content["G_ema"], source=str(path))
    if isinstance(content, tuple) and len(content) == 3 and all(isinstance(part, Record) for part in content):
        return _from_tensorflow(content[2], source=str(path))  # generator, discriminator, averaged generator
    if isinstance(content, dict):
        state = content.get("g_ema", content)
        if isinstance(state, dict) and isinstance(state.get("input.input"), Tensor):
            return _from_port(state, content.get("latent_avg"), source=str(path)), {}
    raise DataError(
        f"{path}: no StyleGAN2 generator could be read from it; expected are NVIDIA's .pkl (G_ema, or three networks "
        "of TensorFlow) or a .pt with g_ema"
    )


def _settings(
    arguments: Mapping[str, Any], *, clamp: str, rate: str, fixed: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Read two settings by the names they have there, and refuse variants of the architecture."""
    for name, expected in fixed.items():
        if arguments.get(name, expected) != expected:
            raise DataError(f"{source}: {name} is not {expected!r}: such variants of StyleGAN2 are not supported")
    values = {"clamp": arguments.get(clamp), "rate": arguments.get(rate, 0.01)}
    if not isinstance(values["clamp"], int | float | None) or not isinstance(values["rate"], int | float):
        raise DataError(f"{source}: {clamp} and {rate} must be numbers")
    return {name: None if value is None else float(value) for name, value in values.items()}


def _from_ada(record: Record, *, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    arguments: dict[str, Any] = {}
    made_from = record.state.get("_init_kwargs")
    for part in ("mapping_kwargs", "synthesis_kwargs"):
        values = made_from.get(part) if isinstance(made_from, dict) else None
        arguments.update(values if isinstance(values, dict) else {})
    fixed = {"architecture": "skip", "activation": "lrelu"}
    return module_tensors(record), _settings(
        arguments, clamp="conv_clamp", rate="lr_multiplier", fixed=fixed, source=source
    )


def _from_tensorflow(record: Record, *, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Kernels are (height, width, in, out), matrices (in, out), style biases one less, kernels of conv0 turned."""
    tensors = {}
    for name, array in _variables(record).items():
        renamed = _renamed(name, _TENSORFLOW_NAMES)
        if renamed is None:
            continue
        tensor = torch.from_numpy(array.copy())
        if renamed.endswith(".const"):
            tensor = tensor[0]
        elif renamed.endswith(".noise_const"):
            tensor = tensor[0, 0]
        elif tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1)
            tensor = tensor.flip(2, 3) if ".conv0." in renamed else tensor
        elif tensor.ndim == 2:
            tensor = tensor.T
        tensors[renamed] = tensor + 1 if renamed.endswith("affine.bias") else tensor
    arguments = record.state.get("static_kwargs")
    fixed = {
        "architecture": "skip",
        "nonlinearity": "lrelu",
        "mapping_nonlinearity": "lrelu",
        "resample_kernel": [1, 3, 3, 1],
    }
    return tensors, _settings(
        arguments if isinstance(arguments, dict) else {},
        clamp="conv_clamp",
        rate="mapping_lrmul",
        fixed=fixed,
        source=source,
    )


def _variables(record: Record, prefix: str = "", depth: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Of a TensorFlow network and its parts: "synthesis/4x4/Const/const" and so on."""
    found = {
        f"{prefix}{name}": np.asarray(value)
        for name, value in record.state.get("variables") or []
        if isinstance(value, np.ndarray | np.generic)  # TensorFlow gives a scalar without a shape
    }
    for name, part in (record.state.get("components") or {}).items() if depth < 2 else ():
        if isinstance(part, Record):
            found.update(_variables(part, f"{prefix}{name}/", depth + 1))
    return found


def _from_port(state: dict[str, Any], mean: Any, *, source: str) -> dict[str, Tensor]:
    """Modulated kernels have a leading 1, so have constant, noise and biases of colour; blur kernels a gain of 4."""
    tensors = {}
    for name, tensor in state.items():
        renamed = _renamed(name, _PORT_NAMES) or ""
        if not isinstance(tensor, Tensor):
            raise DataError(f"{source}: {name} is no tensor")
        if tensor.ndim == 5 or renamed.endswith("b4.const"):
            tensor = tensor.flatten(0, 1) if tensor.ndim == 5 else tensor[0]
        elif renamed.endswith(("noise_const", "noise_strength", "torgb.bias")):
            tensor = tensor.squeeze()
        elif renamed.endswith("resample_filter"):
            tensor = tensor / 4
        tensors[renamed] = tensor
    if isinstance(mean, Tensor):
        tensors["mapping.w_avg"] = mean.flatten()
    return tensors


def _block(number: str) -> str:
    """Name of the convolution with this place among those after the first: two a resolution from 8 up."""
    return f"synthesis.b{8 << int(number) // 2}.conv{int(number) % 2}"


_Names = list[tuple[str, Callable[[re.Match[str]], str | None]]]

_PORT_PARTS = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
    "conv.blur.kernel": "resample_filter",
    "upsample.kernel": "resample_filter",
}
_PORT_PART = "(" + "|".join(re.escape(part) for part in _PORT_PARTS) + ")"
_PORT_NAMES: _Names = [
    (r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}"),
    (r"input\.input", lambda m: "synthesis.b4.const"),
    (rf"conv1\.{_PORT_PART}", lambda m: f"synthesis.b4.conv1.{_PORT_PARTS[m[1]]}"),
    (rf"convs\.(\d\d?)\.{_PORT_PART}", lambda m: f"{_block(m[1])}.{_PORT_PARTS[m[2]]}"),
    (rf"to_rgb1\.{_PORT_PART}", lambda m: f"synthesis.b4.torgb.{_PORT_PARTS[m[1]]}"),
    (rf"to_rgbs\.(\d)\.{_PORT_PART}", lambda m: f"synthesis.b{8 << int(m[1])}.torgb.{_PORT_PARTS[m[2]]}"),
    (r"noises\.noise_0", lambda m: "synthesis.b4.conv1.noise_const"),
    (r"noises\.noise_(\d\d?)", lambda m: f"{_block(str(int(m[1]) - 1))}.noise_const"),
]


_TENSORFLOW_PARTS = {"mod_weight": "affine.weight", "mod_bias": "affine.bias"}
_TENSORFLOW_LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
_TENSORFLOW_NAMES: _Names = [
    (r"dlatent_avg", lambda m: "mapping.w_avg"),
    (r"mapping/Dense(\d+)/(weight|bias)", lambda m: f"mapping.fc{m[1]}.{m[2]}"),
    (r"mapping/LabelEmbed/(weight|bias)", lambda m: f"mapping.embed.{m[1]}"),
    (r"synthesis/4x4/Const/const", lambda m: "synthesis.b4.const"),
    (r"synthesis/noise0", lambda m: "synthesis.b4.conv1.noise_const"),
    (r"synthesis/noise(\d\d?)", lambda m: f"{_block(str(int(m[1]) - 1))}.noise_const"),
    (
        r"synthesis/(\d+)x\d+/(Conv|Conv0_up|Conv1|ToRGB)/(\w+)",
        lambda m: f"synthesis.b{m[1]}.{_TENSORFLOW_LAYERS[m[2]]}.{_TENSORFLOW_PARTS.get(m[3], m[3])}",
    ),
    (r"(synthesis/)?lod", lambda m: None),  # a level of detail that training left behind
]


def _renamed(name: str, names: _Names) -> str | None:
    for pattern, rename in names:
        if match := re.fullmatch(pattern, name):
            return rename(match)
    return name  # unknown: the network will say so


# ------------------------------------------------------------------------------------------ tiny configuration


def _random_tensors(
    *, num_classes: int, side: int = 32, channels: int = 16, dim: int = 32, layers: int = 2
) -> dict[str, Tensor]:
    """Random weights as training begins with, but for noise strengths that are not zero."""
    shapes: dict[str, tuple[int, ...]] = {}
    if num_classes:
        shapes.update({"mapping.embed.weight": (dim, num_classes), "mapping.embed.bias": (dim,)})
    for layer in range(layers):
        in_dim = 2 * dim if num_classes and layer == 0 else dim
        shapes.update({f"mapping.fc{layer}.weight": (dim, in_dim), f"mapping.fc{layer}.bias": (dim,)})
    shapes.update({"mapping.w_avg": (dim,), "synthesis.b4.const": (channels, 4, 4)})
    for power in range(2, side.bit_length()):
        block, kernel = f"synthesis.b{1 << power}", {"conv0": 3, "conv1": 3, "torgb": 1}
        for name in ("conv0", "conv1", "torgb") if power > 2 else ("conv1", "torgb"):
            out = 3 if name == "torgb" else channels
            shapes[f"{block}.{name}.weight"] = (out, channels, kernel[name], kernel[name])
            shapes[f"{block}.{name}.bias"] = (out,)
            shapes[f"{block}.{name}.affine.weight"] = (channels, dim)
            shapes[f"{block}.{name}.affine.bias"] = (channels,)
            if name != "torgb":
                shapes[f"{block}.{name}.noise_const"] = (1 << power, 1 << power)
                shapes[f"{block}.{name}.noise_strength"] = ()
    tensors = normal_tensors(shapes, seed=0)
    for name, tensor in tensors.items():
        if name.startswith("mapping.fc") and name.endswith("weight"):
            tensor.mul_(100)  # divided by the rate of the mapping again
        elif name.endswith("affine.bias"):
            tensor.fill_(1)
        elif name.endswith(("bias", "noise_strength", "w_avg")):
            tensor.mul_(0.1)
    return tensors
