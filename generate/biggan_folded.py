"""BigGAN-deep for rendering at one truncation: no statistics to look up, no channel that is not kept."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrep.generate.folding import ConditionalAffine, channels_last, doubling_conv

if TYPE_CHECKING:
    from pytorch_pretrained_biggan import BigGAN


class FoldedBigGan(nn.Module):
    """Latents (B, D), labels int64 (B,) -> images (B, 3, H, W) in [-1, 1], as the package's network in eval mode.

    Every batch norm becomes one linear map of the condition and one multiply-add, which takes the bias of the
    convolution before it; a 3 x 3 convolution of a doubled image becomes a transposed one; of the last convolution's
    channels (128 in the published networks) the three that are images remain.
    """

    gain: Tensor
    bias: Tensor

    def __init__(self, model: "BigGAN", truncation: float) -> None:
        """``model``: without spectral norms."""
        super().__init__()
        generator: Any = model.generator
        self.truncation = truncation
        self.embedding = nn.Embedding.from_pretrained(model.embeddings.weight.detach().T.contiguous())
        self.first = generator.gen_z
        self.layers = nn.ModuleList(
            _Block(layer, truncation) if hasattr(layer, "bn_0") else _Attention(layer) for layer in generator.layers
        )
        mean, var = _statistics(generator.bn, truncation)
        gain = generator.bn.weight.detach() * (var + generator.bn.eps).rsqrt()
        self.register_buffer("gain", gain[:, None, None])
        self.register_buffer("bias", (generator.bn.bias.detach() - mean * gain)[:, None, None])
        self.last = _conv(generator.conv_to_rgb.weight[:3], generator.conv_to_rgb.bias[:3])
        channels_last(self)

    def render(self, latents: Tensor, labels: Tensor) -> Tensor:
        condition = torch.cat([self.truncation * latents, self.embedding(labels)], dim=1)
        x = self.first(condition).view(len(latents), 4, 4, -1).permute(0, 3, 1, 2)  # TensorFlow's order: channels last
        for layer in self.layers:
            x = layer(x, condition)
        return torch.tanh(self.last(F.relu(torch.addcmul(self.bias, x, self.gain), inplace=True)))


class _Block(nn.Module):
    """Residual bottleneck: 1 x 1, twice 3 x 3, 1 x 1; the shortcut drops channels and doubles the image."""

    def __init__(self, block: Any, truncation: float) -> None:
        super().__init__()
        self.up = block.up_sample
        norms = [block.bn_0, block.bn_1, block.bn_2, block.bn_3]
        biases = [None, block.conv_0.bias, block.conv_1.bias, block.conv_2.bias]
        self.norms = nn.ModuleList(
            _affine(norm, truncation, before) for norm, before in zip(norms, biases, strict=True)
        )
        self.convs = nn.ModuleList(
            [
                _conv(block.conv_0.weight, None),
                doubling_conv(block.conv_1) if self.up else _conv(block.conv_1.weight, None),
                _conv(block.conv_2.weight, None),
                _conv(block.conv_3.weight, block.conv_3.bias),
            ]
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.relu(norm(h, condition), inplace=True))
        shortcut = x[:, : h.shape[1]]
        return h + (F.interpolate(shortcut, scale_factor=2) if self.up else shortcut)


class _Attention(nn.Module):
    """The package's self-attention, with its gain in the last weights."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            _conv(conv.weight, None)
            for conv in (attention.snconv1x1_theta, attention.snconv1x1_phi, attention.snconv1x1_g)
        )
        self.out = _conv(attention.gamma * attention.snconv1x1_o_conv.weight, None)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (B, C/8, HW)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (B, C/8, HW/4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (B, C/2, HW/4)
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        return x + self.out((value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))


def _affine(norm: Any, truncation: float, before: Tensor | None) -> ConditionalAffine:
    mean, var = _statistics(norm, truncation)
    return ConditionalAffine(norm.scale, norm.offset, mean=mean, var=var, eps=norm.eps, before=before)


def _statistics(norm: Any, truncation: float) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) by the package's own formula, which swaps the two weights between rows.

    The norms that the adapter mended hold a single row, with an infinite step: the formula returns it.
    """
    weight, row = math.modf(truncation / norm.step_size)
    mean, var = (
        torch.lerp(table[int(row) + 1], table[int(row)], weight) if weight else table[int(row)]
        for table in (norm.running_means, norm.running_vars)
    )
    return mean, var


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Padded to keep the size."""
    out_channels, in_channels, side, _ = weight.shape
    conv = nn.utils.skip_init(nn.Conv2d, in_channels, out_channels, side, padding=side // 2, bias=bias is not None)
    conv.weight = _frozen(weight)
    if bias is not None:
        conv.bias = _frozen(bias)
    return conv


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
