"""Tiny generators in plug-in style (nothing of genrep is imported) with answers a test can work out.

Named on a command line as ``stub_generators:conditional`` and so on, with this folder on the path.
"""

import os
import time

import torch
from torch import Tensor, nn

CLASS_NAMES = ("ant", "bee", "sea cat")


class Stub:
    """One linear layer and tanh: (B, 4) latents, three classes -> (B, 1, 8, 8)."""

    latent_dim = 4
    image_shape = (1, 8, 8)
    num_classes = 3
    class_names = CLASS_NAMES
    default_std = 0.5

    def __init__(self, *, gain: float = 1.0, salt: int = 0) -> None:
        channels, height, width = self.image_shape
        self.gain = gain
        self.network = nn.Linear(self.latent_dim + self.num_classes, channels * height * width)
        source = torch.Generator().manual_seed(salt)
        with torch.no_grad():
            self.network.weight.copy_(torch.randn(self.network.weight.shape, generator=source) * 0.5)
            self.network.bias.zero_()

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        time.sleep(float(os.environ.get("STUB_SECONDS_A_RENDER", "0")))
        if self.num_classes:
            assert labels is not None
            latents = torch.cat([latents, nn.functional.one_hot(labels, self.num_classes).to(latents.dtype)], dim=1)
        return torch.tanh(self.gain * self.network(latents)).view(-1, *self.image_shape)

    def to(self, device: str | torch.device) -> "Stub":
        self.network.to(device)
        return self


class Unconditional(Stub):
    num_classes = 0
    class_names = ()
    default_std = 0.2


class Wide(Stub):
    """Three channels, not square, a truncated prior."""

    image_shape = (3, 8, 12)
    prior = "truncated-normal"


class Mapped(Stub):
    """An intermediate space of five coordinates: ``w = (z, sum of z)``; truncates there by itself."""

    truncation = 1.0

    def set_truncation(self, truncation: float) -> None:
        self.truncation = truncation

    def map(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return self.truncation * torch.cat([latents, latents.sum(dim=1, keepdim=True)], dim=1)

    def render_mapped(self, mapped: Tensor, labels: Tensor | None) -> Tensor:
        return super().render(mapped[:, :4], labels)

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return self.render_mapped(self.map(latents, labels), labels)


class Noisy(Unconditional):
    """Every pixel of an image is its noise seed, folded into [-1, 1]."""

    def render(self, latents: Tensor, labels: Tensor | None, noise_seeds: Tensor) -> Tensor:
        values = (noise_seeds % 256).to(torch.float32) / 127.5 - 1
        return values.view(-1, 1, 1, 1).expand(-1, *self.image_shape)


class Blocked(Stub):
    """A latent in two blocks: one coordinate, then three."""

    latent_blocks = (1, 3)


class Held(Stub):
    """Waits in ``render`` while the file ``hold`` is there, and leaves a file beside it that says so."""

    def __init__(self, *, hold: str, salt: int) -> None:
        super().__init__(salt=salt)
        self.hold = hold

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        while os.path.exists(self.hold):
            with open(f"{self.hold}.{os.getpid()}", "w"):
                pass
            time.sleep(0.01)
        return super().render(latents, labels)


class KeepsVariance(Unconditional):
    keeps_variance = True


class NotANumber(Unconditional):
    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return torch.full((len(latents), *self.image_shape), float("nan"))


class ByNumpy(Unconditional):
    """No exporter can follow what it does."""

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return super().render(torch.from_numpy(latents.numpy().copy()), labels)


def conditional(weights=None, *, gain: str = "1", salt: str = "0") -> Stub:
    return Stub(gain=float(gain), salt=int(salt))


def unconditional(weights=None) -> Unconditional:
    return Unconditional()


def wide(weights=None) -> Wide:
    return Wide()


def mapped(weights=None) -> Mapped:
    return Mapped()


def noisy(weights=None) -> Noisy:
    return Noisy()


def blocked(weights=None) -> Blocked:
    return Blocked()


def held(weights=None, *, hold: str = "", salt: str = "0") -> Held:
    return Held(hold=hold, salt=int(salt))


def keeps_variance(weights=None) -> KeepsVariance:
    return KeepsVariance()


def not_a_number(weights=None) -> NotANumber:
    return NotANumber()


def by_numpy(weights=None) -> ByNumpy:
    return ByNumpy()


def without_a_render(weights=None) -> object:
    return object()
