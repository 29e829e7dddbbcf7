"""Folding: what no latent and no label changes is computed once, before rendering.

Spectral norms and other parametrizations become plain weights, batch norms at the recipe's truncation become part of
their neighbours. Images stay the same up to rounding; `check` measures by how much.
"""

import copy
import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm

from genrep.generate.generators import LoadedGenerator, modules_of
from genrep.shards.errors import DataError


@torch.no_grad()
def folded(generator: LoadedGenerator) -> LoadedGenerator:
    """A copy for rendering at the generator's present truncation, by the plug-in's own ``folded()`` if it has one.

    Without one: every parametrization and spectral norm is replaced by its value, a batch norm behind a convolution or
    linear layer of a ``torch.nn.Sequential`` becomes part of it, and convolutions get their weights in channels_last.

    Raises:
        DataError: If the plug-in cannot be copied, or what it returns cannot render.
    """
    plug_in = generator.plug_in
    result = copy.copy(generator)
    try:
        result.plug_in = plug_in.folded() if hasattr(plug_in, "folded") else _folded_copy(plug_in)
    except Exception as error:  # the plug-in's own code
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"generator {generator.spec} cannot be folded ({reason}); leave --fold out") from error
    wanted = ("map", "render_mapped", "render") if "w" in generator.latent_spaces else ("render",)
    missing = [name for name in wanted if not hasattr(result.plug_in, name)]
    if missing:
        raise DataError(f"generator {generator.spec}: what its folded() returns has no {missing[0]}")
    for module in result.modules().values():
        module.eval().requires_grad_(False)
    return result


class ConditionalAffine(nn.Module):
    """A conditional batch norm in eval mode: x (B, C, H, W) -> x * gain + bias, both linear in the condition (B, D).

    Where the norm computes (x + before - mean) / sqrt(var + eps) * (1 + G c) + B c, gain is
    (1 + G c) / sqrt(var + eps) and bias is B c + (before - mean) * gain.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        gain: nn.Linear,
        bias: nn.Linear,
        *,
        mean: Tensor,
        var: Tensor,
        eps: float,
        before: Tensor | None = None,
    ) -> None:
        """``gain`` and ``bias``: the norm's G and B; ``before`` (C,): bias of the layer in front, left out there."""
        super().__init__()
        scale = (var.double() + eps).rsqrt()
        shift = (-mean if before is None else before - mean).double()
        gain_weight = gain.weight * scale[:, None]
        gain_bias = scale if gain.bias is None else scale + gain.bias * scale
        bias_weight, bias_bias = bias.weight + shift[:, None] * gain_weight, shift * gain_bias
        if bias.bias is not None:
            bias_bias = bias_bias + bias.bias
        self.register_buffer("weight", torch.cat([gain_weight, bias_weight]).detach().float())
        self.register_buffer("bias", torch.cat([gain_bias, bias_bias]).detach().float())

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, bias = F.linear(condition, self.weight, self.bias)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(bias, x, gain)


def doubling_conv(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """Nearest-neighbour doubling and then ``conv`` (3 x 3, padding 1) as one layer, without the bias.

    Doubling is itself a transposed convolution, with ones (2 x 2); two in a row are one with the kernels convolved.
    Four taps fall on a pixel instead of nine.
    """
    kernel = conv.weight.detach().flip(2, 3).transpose(0, 1)  # a transposed convolution mirrors its kernel
    ones = torch.ones(1, 1, 2, 2, dtype=kernel.dtype, device=kernel.device)
    weight = F.conv2d(kernel.reshape(-1, 1, 3, 3), ones, padding=1).view(*kernel.shape[:2], 4, 4)
    doubling = nn.utils.skip_init(nn.ConvTranspose2d, *kernel.shape[:2], 4, stride=2, padding=1, bias=False)
    doubling.weight = nn.Parameter(weight, requires_grad=False)
    return doubling


def channels_last(module: nn.Module) -> nn.Module:
    """Lays convolution weights out as the fast kernels want them; activations follow."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    return module


def _folded_copy(plug_in: Any) -> Any:
    parts = [part for module in modules_of(plug_in).values() for part in module.modules()]
    results = [value for part in parts for value in vars(part).values() if isinstance(value, Tensor)]
    # a spectral norm keeps its last weight, which with its gradient's history refuses to be copied
    result = copy.deepcopy(plug_in, {id(tensor): tensor.detach() for tensor in results if not tensor.is_leaf})
    for module in modules_of(result).values():
        for part in list(module.modules()):
            _fix_parametrizations(part)
        for part in list(module.modules()):
            if isinstance(part, nn.Sequential):
                _merge_batch_norms(part)
        channels_last(module)
    return result


def _fix_parametrizations(module: nn.Module) -> None:
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
    if parametrize.is_parametrized(module):
        values = {name: getattr(module, name) for name in cast(nn.ModuleDict, module.parametrizations)}
        module.__class__ = type(module).__bases__[0]  # torch's own removal edits the class, which the original shares
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _merge_batch_norms(sequence: nn.Sequential) -> None:
    for place, (layer, norm) in enumerate(itertools.pairwise(list(sequence))):
        if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or norm.running_mean is None:
            continue
        if type(layer) is nn.Conv2d:
            merged: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif type(layer) is nn.ConvTranspose2d and layer.groups == 1:
            merged = fuse_conv_bn_eval(layer, norm, transpose=True)
        elif type(layer) is nn.Linear:
            merged = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        sequence[place], sequence[place + 1] = merged, nn.Identity()
