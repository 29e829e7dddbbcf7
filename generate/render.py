"""From drawn samples to bytes of pixels, in micro-batches of one fixed size.

Floating-point sums depend on the shape of the batch. So a network always sees full micro-batches of the recipe's size,
beginning at multiples of it in the sample index, the last one padded: a sample's pixels then do not depend on
shard size, number of samples or rank.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genrep.generate.generators import LoadedGenerator
from genrep.generate.recipe import Recipe
from genrep.generate.samples import Drawn, describe_samples, draw_samples, strength_columns
from genrep.shards.batch import Batch
from genrep.shards.errors import DataError

_DRAWN_AT_ONCE = 4096  # samples: numpy's cost a call vanishes, and memory does not grow with the shard


class Renderer:
    """A generator on its device, set up as a recipe says. Not for two recipes at once."""

    def __init__(self, generator: LoadedGenerator, recipe: Recipe, *, device: str | torch.device = "cpu") -> None:
        self._generator = generator.to(device)
        self._recipe = recipe
        self._device = torch.device(device)
        generator.set_truncation(recipe.generator.truncation)

    def batches(self, first: int, count: int) -> Iterator[Batch]:
        """Samples first .. first + count - 1, one batch a micro-batch; ``first`` a multiple of the micro-batch."""
        size = self._recipe.render.micro_batch
        if first % size:
            raise ValueError(f"first must be a multiple of the micro-batch {size}, got {first}")
        drawn_at_once = max(_DRAWN_AT_ONCE // size, 1) * size
        for start in range(first, first + count, drawn_at_once):
            yield from self._batches_of(range(start, min(start + drawn_at_once, first + count)))

    def _batches_of(self, indices: range) -> Iterator[Batch]:
        size = self._recipe.render.micro_batch
        in_w = self._recipe.generator.latent_space != "z"
        drawn = draw_samples(self._recipe, indices, map_latents=self._map if in_w else None)
        meta, columns = describe_samples(self._recipe, drawn), strength_columns(drawn)
        for start in range(0, len(indices), size):
            rows = slice(start, min(start + size, len(indices)))
            yield Batch(
                first=indices[start],
                images=self._images(drawn, rows),
                latents=drawn.latents[rows],
                labels=drawn.labels[rows],
                meta=meta[rows],
                columns={name: values[rows] for name, values in columns.items()},
            )

    @torch.inference_mode()
    def _images(self, drawn: Drawn, rows: slice) -> NDArray[np.uint8]:
        """uint8 (B, 1+K, H, W, C) of one micro-batch, B at most its size."""
        image = self._recipe.image
        count = rows.stop - rows.start
        result = np.empty((count, 1 + self._recipe.num_views, image.height, image.width, image.channels), np.uint8)
        in_w = self._recipe.generator.latent_space != "z"
        render = self._generator.render_mapped if in_w else self._generator.render
        labels = self._labels(drawn.labels[rows])
        for view in range(result.shape[1]):
            latents = self._padded(drawn.latents[rows, view])
            noise_seeds = self._padded(drawn.noise_seeds[rows, view])
            with self._precision():
                images = render(latents, labels, noise_seeds)
            if tuple(images.shape[1:]) != self._generator.image_shape or len(images) != len(latents):
                raise DataError(
                    f"generator {self._generator.spec} rendered shape {tuple(images.shape)} for {len(latents)} "
                    f"latents; its image_shape is {self._generator.image_shape}"
                )
            if not torch.isfinite(images).all():
                raise DataError(
                    f"generator {self._generator.spec} rendered values that are no numbers, at or after sample "
                    f"{drawn.indices[rows.start]}; genrep-generators check looks for the cause"
                )
            pixels = to_pixels(_shrunk(images[:count], image.height, image.width))
            result[:, view] = pixels.cpu().numpy()
        return result

    @torch.inference_mode()
    def _map(self, latents: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Latents of z (N, D) -> of w or w+ (N, D'), in micro-batches like the images."""
        size, space = self._recipe.render.micro_batch, self._recipe.generator.latent_space
        mapped = []
        for start in range(0, len(latents), size):
            rows = slice(start, start + size)
            with self._precision():
                part = self._generator.map(self._padded(latents[rows]), self._labels(labels[rows]), latent_space=space)
            mapped.append(part[: len(latents[rows])].float().cpu().numpy())
        return np.concatenate(mapped)

    def _labels(self, labels: NDArray[np.int64]) -> Tensor | None:
        return self._padded(labels) if self._recipe.generator.num_classes else None

    def _padded(self, rows: NDArray[Any]) -> Tensor:
        """The rows on the device, the last one repeated up to the micro-batch."""
        missing = self._recipe.render.micro_batch - len(rows)
        if missing:
            rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)

    def _precision(self) -> AbstractContextManager[Any]:
        name = self._recipe.render.dtype
        return nullcontext() if name == "float32" else torch.autocast(self._device.type, dtype=getattr(torch, name))


def to_pixels(images: Tensor) -> Tensor:
    """Float (B, C, H, W) in [-1, 1] -> uint8 (B, H, W, C): (x + 1) * 127.5, rounded half to even, clipped."""
    grey_levels = (images.float() + 1).mul_(127.5).round_().clamp_(0, 255)
    return grey_levels.to(torch.uint8).permute(0, 2, 3, 1)


def _shrunk(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[2:] == (height, width):
        return images
    return F.interpolate(images.float(), size=(height, width), mode="area")


@contextmanager
def render_settings(recipe: Recipe) -> Iterator[None]:
    """Threads as recorded, full float32 products (no TF32), no search for the fastest kernel; restored at the end."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    torch.set_num_threads(recipe.render.threads)
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def render_environment(device: str | torch.device) -> dict[str, Any]:
    """What pixels depend on beside the recipe; recorded for every shard."""
    from genrep.shards.codec import codec_versions

    device = torch.device(device)
    if device.type == "cuda":
        processor = {"gpu": torch.cuda.get_device_name(device)}
    else:
        processor = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    return {"torch": torch.__version__, "device": device.type, **processor, "tf32": False, "codec": codec_versions()}
