"""From drawn samples to bytes of pixels, in micro-batches of one fixed size.

Floating-point sums depend on the shape of the batch. So a network always sees full micro-batches of the recipe's size,
beginning at multiples of it in the sample index, the last one padded: a sample's pixels then do not depend on
shard size, number of samples or rank.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genrep.generate.backends import backend_environment, rendering
from genrep.generate.generators import LoadedGenerator
from genrep.generate.pixels import to_pixels
from genrep.generate.recipe import Recipe
from genrep.generate.samples import Drawn, describe_samples, draw_samples, strength_columns
from genrep.generate.streams import CudaDevice, to_device, to_host
from genrep.shards.ahead import ahead
from genrep.shards.batch import Batch
from genrep.shards.errors import DataError

Key = TypeVar("Key")
_Inputs = tuple[Tensor, Tensor | None, Tensor]  # latents (V, B, D), labels (B,), noise seeds (V, B)

_DRAWN_AT_ONCE = 4096  # samples: numpy's cost a call vanishes, and memory does not grow with the shard


@dataclass(frozen=True)
class _Rows:
    """Some of the samples that were drawn together, with all that is known of them without their images."""

    drawn: Drawn
    meta: list[dict[str, Any]]
    columns: dict[str, NDArray[np.float32]]
    rows: slice


class Renderer:
    """A generator on its device, set up as a recipe says. Not for two recipes at once.

    Making one raises DataError if the generator cannot be run as the recipe says.

    Args:
        workers: Threads that render micro-batches ahead, on a CPU, of a generator that says it is thread-safe, where
            PyTorch runs it uncompiled; 0, as in all other cases: a micro-batch is rendered when it is asked for.
    """

    def __init__(
        self, generator: LoadedGenerator, recipe: Recipe, *, device: str | torch.device = "cpu", workers: int = 0
    ) -> None:
        self._generator = generator.to(device)
        self._recipe = recipe
        self._device = torch.device(device)
        generator.set_truncation(recipe.generator.truncation)
        self._render = rendering(generator, recipe, self._device)
        is_plain = recipe.render.backend == "torch" and not recipe.render.compile
        self._workers = workers if generator.thread_safe and is_plain and self._device.type == "cpu" else 0
        if recipe.render.compile:
            next(self.batches(0, 1))  # compiles, or fails before anything is written

    def batches(self, first: int, count: int) -> Iterator[Batch]:
        """Samples first .. first + count - 1, one batch a micro-batch; where ``first`` lies within one, its rest.

        On a GPU a batch comes while the next ones are being rendered, see :mod:`genrep.generate.streams`.
        """
        begin = first - first % self._recipe.render.micro_batch
        for part, (images, finite) in to_host(self._launched(begin, first + count - begin), self._cuda()):
            drawn, rows = part.drawn, part.rows
            self._check(finite, drawn.indices[rows.start])
            skipped = max(first - int(drawn.indices[rows.start]), 0)
            rows = slice(rows.start + skipped, rows.stop)
            yield Batch(
                first=int(drawn.indices[rows.start]),
                images=images[skipped : skipped + rows.stop - rows.start],
                latents=drawn.latents[rows],
                labels=drawn.labels[rows],
                meta=part.meta[rows],
                columns={name: values[rows] for name, values in part.columns.items()},
            )

    def draw(self, indices: range) -> Drawn:
        """The samples unrendered; latents of w are made in whole micro-batches too, the last one padded."""
        in_w = self._recipe.generator.latent_space != "z"
        skip = indices.start % self._recipe.render.micro_batch
        whole = range(indices.start - skip, indices.stop)
        drawn = draw_samples(self._recipe, whole, map_latents=self._map if in_w else None)
        return drawn.rows(slice(skip, None))

    def images(self, drawn: Drawn) -> NDArray[np.uint8]:
        """uint8 (B, V, H, W, C) of samples that begin with a micro-batch."""
        parts = []
        for rows, (images, finite) in to_host(self._rendered(self._inputs(drawn)), self._cuda()):
            self._check(finite, drawn.indices[rows.start])
            parts.append(images[: rows.stop - rows.start])
        return np.concatenate(parts)

    def _cuda(self) -> CudaDevice | None:
        return CudaDevice(self._device) if self._device.type == "cuda" else None

    def _check(self, finite: NDArray[np.bool_], sample: int) -> None:
        if not finite.all():
            raise DataError(
                f"generator {self._generator.spec} rendered values that are no numbers, at or after sample "
                f"{sample}; genrep-generators check looks for the cause"
            )

    def _launched(self, first: int, count: int) -> Iterator[tuple[_Rows, tuple[Tensor, Tensor]]]:
        """Every micro-batch: where it comes from, and its images as :meth:`_images` gives them."""
        drawn_at_once = max(_DRAWN_AT_ONCE // self._recipe.render.micro_batch, 1) * self._recipe.render.micro_batch

        def parts() -> Iterator[tuple[_Rows, _Inputs]]:
            for start in range(first, first + count, drawn_at_once):
                drawn = self.draw(range(start, min(start + drawn_at_once, first + count)))
                meta, columns = describe_samples(self._recipe, drawn), strength_columns(self._recipe, drawn)
                for rows, inputs in self._inputs(drawn):
                    yield _Rows(drawn, meta, columns, rows), inputs

        return self._rendered(parts())

    def _inputs(self, drawn: Drawn) -> Iterator[tuple[slice, _Inputs]]:
        """The rows of every micro-batch, and what it is rendered from."""
        size, count = self._recipe.render.micro_batch, len(drawn.indices)
        # all at once, view by view: a copy for every rendering would have the host wait for the device each time
        latents = self._padded(drawn.latents).transpose(0, 1).contiguous()
        noise_seeds = self._padded(drawn.noise_seeds).T.contiguous()
        labels = self._labels(drawn.labels)
        for place in range(0, count, size):
            full = slice(place, place + size)
            inputs = (
                latents[:, full].clone(),  # sums may depend on where in memory a batch begins
                None if labels is None else labels[full],
                noise_seeds[:, full],
            )
            yield slice(place, min(place + size, count)), inputs

    def _rendered(self, parts: Iterable[tuple[Key, _Inputs]]) -> Iterator[tuple[Key, tuple[Tensor, Tensor]]]:
        return ahead(lambda part: (part[0], self._images(*part[1])), parts, self._workers)

    @torch.inference_mode()
    def _images(self, latents: Tensor, labels: Tensor | None, noise_seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels of a full micro-batch, uint8 (B, V, H, W, C), and for each view whether its values are finite.

        Args:
            latents: (V, B, D).
            labels: (B,) or None.
            noise_seeds: (V, B).
        """
        image = self._recipe.image
        views, size = latents.shape[:2]
        shape = (size, views, image.height, image.width, image.channels)
        pixels = torch.empty(shape, dtype=torch.uint8, device=self._device)
        finite = torch.empty(views, dtype=torch.bool, device=self._device)
        for view in range(views):
            with self._precision():
                images = self._render(latents[view], labels, noise_seeds[view])
            if tuple(images.shape[1:]) != self._generator.image_shape or len(images) != size:
                raise DataError(
                    f"generator {self._generator.spec} rendered shape {tuple(images.shape)} for {size} "
                    f"latents; its image_shape is {self._generator.image_shape}"
                )
            finite[view] = torch.isfinite(images).all()
            pixels[:, view] = to_pixels(_shrunk(images, image.height, image.width))
        return pixels, finite

    @torch.inference_mode()
    def _map(self, latents: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Latents of z (N, D) -> of w or w+ (N, D'), in micro-batches like the images."""
        size, space = self._recipe.render.micro_batch, self._recipe.generator.latent_space
        padded, all_labels = self._padded(latents), self._labels(labels)
        mapped = []
        for start in range(0, len(padded), size):
            rows = slice(start, start + size)
            with self._precision():
                part = self._generator.map(
                    padded[rows].clone(), None if all_labels is None else all_labels[rows], latent_space=space
                )
            mapped.append(part.float().cpu().numpy())
        return np.concatenate(mapped)[: len(latents)]

    def _labels(self, labels: NDArray[np.int64]) -> Tensor | None:
        return self._padded(labels) if self._recipe.generator.num_classes else None

    def _padded(self, rows: NDArray[Any]) -> Tensor:
        """The rows on the device, the last one repeated up to a multiple of the micro-batch."""
        missing = -len(rows) % self._recipe.render.micro_batch
        if missing:
            rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        return to_device(rows, self._device)

    def _precision(self) -> AbstractContextManager[Any]:
        name = self._recipe.render.dtype
        return nullcontext() if name == "float32" else torch.autocast(self._device.type, dtype=getattr(torch, name))


def _shrunk(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[2:] == (height, width):
        return images
    return F.interpolate(images.float(), size=(height, width), mode="area")


def render_workers(recipe: Recipe) -> int:
    """Threads that render where the generator allows several: as many as OMP_NUM_THREADS or else the cores carry.

    Ask before :func:`render_settings`, which sets torch's number of threads.
    """
    return max(torch.get_num_threads() // recipe.render.threads, 1)


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


def render_environment(device: str | torch.device, recipe: Recipe) -> dict[str, Any]:
    """What pixels depend on beside the recipe; recorded for every shard."""
    from genrep.shards.codec import codec_versions

    device = torch.device(device)
    if device.type == "cuda":
        processor = {"gpu": torch.cuda.get_device_name(device)}
    else:
        processor = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    libraries = {"torch": torch.__version__, **backend_environment(recipe, device)}
    return {**libraries, "device": device.type, **processor, "tf32": False, "codec": codec_versions()}
