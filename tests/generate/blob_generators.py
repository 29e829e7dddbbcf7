"""A generator whose every latent coordinate is a pixel edit, in plug-in style: what a walk should be is known.

Named on a command line as ``blob_generators:blob``.
"""

import math

import torch
from torch import Tensor

PIXELS, LN_SCALE, DEGREES, RELATIVE = 1.0, 0.1, 10.0, 0.1  # a unit of the latent moves, enlarges, turns, brightens


class Blob:
    """An oblong bright spot on black, 16 x 16: coordinates x, y, size, angle, brightness and one without effect."""

    latent_dim = 6
    image_shape = (1, 16, 16)

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        x0, y0, size, angle, light, _ = (column[:, None, None] for column in latents.unbind(dim=1))
        axis = torch.arange(16) - 7.5
        y, x = axis.view(1, 16, 1) - PIXELS * y0, axis.view(1, 1, 16) - PIXELS * x0
        turn, scale = angle * DEGREES * math.pi / 180, torch.exp(LN_SCALE * size)
        along = (x * torch.cos(turn) - y * torch.sin(turn)) / (2.5 * scale)  # counter-clockwise on the screen
        across = (x * torch.sin(turn) + y * torch.cos(turn)) / (1.2 * scale)
        spot = torch.exp(-(along.square() + across.square()) / 2)
        return ((1 + RELATIVE * light) * 1.2 * spot - 1)[:, None]


class Ungraded(Blob):
    @torch.no_grad()
    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return super().render(latents, labels)


def blob(weights=None) -> Blob:
    return Blob()


def ungraded(weights=None) -> Ungraded:
    return Ungraded()


def left_or_right():
    """A classifier: on which side of the middle the light lies."""

    def logits(images: Tensor) -> Tensor:
        columns = (images + 1).sum(dim=(1, 2))
        return torch.stack([columns[:, :8].sum(dim=1), columns[:, 8:].sum(dim=1)], dim=1)

    return logits
