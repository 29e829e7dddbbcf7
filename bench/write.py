"""Writing: a float batch in [-1, 1] -> a committed shard, beside the naive ways and the bound, in one process.

    python -m bench.write --size 28
    python -m bench.write --size 128

One thread each, interleaved rounds, medians; in CPU-seconds, which other work on the machine changes least.
"""

import io
import os
import pickle
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from genrep.generate.render import to_pixels
from genrep.shards import codec, fashion_mnist
from genrep.shards.batch import Batch
from genrep.shards.layout import FORMAT, ShardSpec
from genrep.shards.writer import DatasetWriter

MICRO_BATCH, LATENT_DIM = 64, 128


@click.command()
@click.option("--size", default="28", show_default=True, type=click.Choice(["28", "128"]), help="Side of the images.")
@click.option("--n", "num_pairs", default=1024, show_default=True, type=click.IntRange(min=64), help="Pairs a shard.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
def main(size: str, num_pairs: int, rounds: int) -> None:
    """Print a Markdown table: pairs a CPU-second of each way, its spread, and genrep's ratio to it."""
    torch.set_num_threads(1)
    pixels = garments(num_pairs) if size == "28" else photographs(num_pairs, int(size))
    images = torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = np.random.default_rng(0).standard_normal((num_pairs, 2, LATENT_DIM), dtype=np.float32)
    flat = pixels.reshape(-1, *pixels.shape[2:])
    image_format = codec.default_format(*pixels.shape[2:4])
    quality = 95 if image_format == "jpg" else None
    ways: dict[str, Callable[[Path], object]] = {
        f"genrep, {image_format}": lambda out: genrep(out, images, latents, image_format, quality),
        "PNG files and one pickle, as the paper's authors": lambda out: files_and_pickle(out, images, latents),
        f"webdataset.ShardWriter and Pillow, {image_format}": lambda out: shard_writer(
            out, images, latents, image_format
        ),
        "encoding alone (bound)": lambda out: codec.encode(flat, format=image_format, quality=quality),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, way in ways.items():
                out = Path(folder, "out")
                started = time.process_time()
                way(out)
                if number:  # the first round warms up
                    speeds[name].append(num_pairs / (time.process_time() - started))
                shutil.rmtree(out, ignore_errors=True)
    ours = statistics.median(next(iter(speeds.values())))
    click.echo(
        f"{size} px, {num_pairs} pairs, {rounds} rounds; torch {torch.__version__}, numpy {np.__version__}, ", nl=False
    )
    click.echo(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, one thread\n")
    click.echo("| way | pairs a CPU-second | least to most | genrep's ratio |\n|---|---|---|---|")
    for name, found in speeds.items():
        median = statistics.median(found)
        click.echo(f"| {name} | {median:,.0f} | {min(found):,.0f} to {max(found):,.0f} | {ours / median:.2f} |")


def garments(num_pairs: int) -> np.ndarray:
    """uint8 (N, 2, 28, 28, 1)."""
    return fashion_mnist.load("learn").images[: 2 * num_pairs].reshape(num_pairs, 2, 28, 28, 1).copy()


def photographs(num_pairs: int, size: int) -> np.ndarray:
    """uint8 (N, 2, size, size, 3): random crops of photographs that scikit-image ships."""
    from skimage import data

    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    draws = np.random.default_rng(0)
    crops = np.empty((2 * num_pairs, size, size, 3), np.uint8)
    for number, crop in enumerate(crops):
        source = sources[number % len(sources)]
        top, left = (draws.integers(side - size) for side in source.shape[:2])
        crop[:] = source[top : top + size, left : left + size]
    return crops.reshape(num_pairs, 2, size, size, 3)


def genrep(out: Path, images: torch.Tensor, latents: np.ndarray, image_format: str, quality: int | None) -> None:
    """Through the product's own conversion, encoders and writer: hash, sync, table and rename included."""
    genrep_set(out, images, latents, image_format, quality, shard_size=len(latents))


def genrep_set(
    out: Path, images: torch.Tensor, latents: np.ndarray, image_format: str, quality: int | None, *, shard_size: int
) -> None:
    num_pairs = len(latents)
    _, channels, height, width = images.shape
    image = {"format": image_format, "quality": quality, "resize": None}
    recipe = {
        "format": FORMAT,
        "kind": "generated",
        "num_samples": num_pairs,
        "shard_size": shard_size,
        "views": ["gauss"],
        "image": {**image, "height": height, "width": width, "channels": channels},
        "generator": {"name": "bench", "latent_dim": LATENT_DIM, "class_names": []},
    }
    writer = DatasetWriter(out, recipe)

    def batches(spec: ShardSpec) -> Iterator[Batch]:
        for first in range(spec.first, spec.first + spec.count, MICRO_BATCH):
            last = min(first + MICRO_BATCH, spec.first + spec.count)
            pixels = to_pixels(images[2 * first : 2 * last]).contiguous().numpy()
            yield Batch(
                first,
                pixels.reshape(last - first, 2, *pixels.shape[1:]),
                latents[first:last],
                np.full(last - first, 3),
                [{"index": n, "class": None, "views": [{"kind": "gauss", "std": 0.2}]} for n in range(first, last)],
            )

    for spec in writer.missing_shards():
        writer.write_shard(spec, batches(spec), {})
    writer.finish()


def one_picture(image: torch.Tensor) -> Image.Image:
    pixels = ((image + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def files_and_pickle(out: Path, images: torch.Tensor, latents: np.ndarray) -> None:
    """One PNG file an image, all latents in one pickle at the end."""
    out.mkdir()
    for number, image in enumerate(images):
        one_picture(image).save(out / f"sample{number // 2:05d}_{number % 2}.png")
    with open(out / "z_dataset.pkl", "wb") as file:
        pickle.dump({f"sample{n:05d}": [pair[0], 3] for n, pair in enumerate(latents)}, file)


def shard_writer(out: Path, images: torch.Tensor, latents: np.ndarray, image_format: str) -> None:
    """The way the webdataset manual shows, one member after another."""
    import webdataset

    out.mkdir()
    arguments = {"format": "PNG"} if image_format == "png" else {"format": "JPEG", "quality": 95}
    with webdataset.ShardWriter(f"{out}/shard-%06d.tar", maxcount=10**9, verbose=0) as writer:
        for number, pair in enumerate(latents):
            sample = {"__key__": f"{number:09d}", "cls": 3, "json": {"index": number, "class": None}}
            for name, image in zip(("anchor", "view1"), images[2 * number : 2 * number + 2], strict=True):
                file = io.BytesIO()
                one_picture(image).save(file, **arguments)
                sample[f"{name}.{image_format}"] = file.getvalue()
            file = io.BytesIO()
            np.save(file, pair)
            sample["latents.npy"] = file.getvalue()
            writer.write(sample)


if __name__ == "__main__":
    main()
