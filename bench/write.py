"""Writing: a float batch in [-1, 1] -> a committed shard, beside the naive ways and the bound, in one process.

    python -m bench.write --size 28
    python -m bench.write --size 128
    python -m bench.write --size 128 --subsampling 4:2:0
    python -m bench.write --size 128 --format png

One thread each, interleaved rounds, medians; in CPU-seconds, which other work on the machine changes least.
"""

import io
import pickle
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from bench.report import Report, Target, Way, out_option, rates, ratio, rounds_option, summary
from genrep.generate.pixels import to_pixels
from genrep.shards import codec, fashion_mnist
from genrep.shards.batch import Batch
from genrep.shards.cli import subsampling_option
from genrep.shards.layout import FORMAT, FULL_COLOUR, ShardSpec, subsampling_complaint
from genrep.shards.writer import DatasetWriter

MICRO_BATCH, LATENT_DIM = 64, 128
GENREP, AUTHORS, PLAIN, BOUND = "genrep", "the authors' way", "ShardWriter and Pillow", "encoding alone"
REACH = {  # kind -> way -> genrep's ratio to it
    "28 px png": {AUTHORS: 18},
    "128 px jpg": {AUTHORS: 25, PLAIN: 2.8, BOUND: 0.55},
    "128 px jpg 4:2:0": {AUTHORS: 30, PLAIN: 3.5},
    "128 px png": {PLAIN: 16},
}


@click.command()
@click.option("--size", default="28", show_default=True, type=click.Choice(["28", "128"]), help="Side of the images.")
@click.option(
    "--format", "image_format", type=click.Choice(["png", "jpg"]), help="[default: png at 28 px, jpg q95 4:4:4 at 128]"
)
@subsampling_option
@click.option(
    "--n", "num_pairs", type=click.IntRange(min=64), help="Pairs a shard.  [default: 4096 at 28 px, 2048 at 128]"
)
@rounds_option(5)
@out_option
def main(
    size: str, image_format: str | None, subsampling: str, num_pairs: int | None, rounds: int, out: Path | None
) -> None:
    """Pairs a CPU-second of each way, its spread, and its ratio to the authors' way."""
    torch.set_num_threads(1)
    num_pairs = num_pairs or (4096 if size == "28" else 2048)
    pixels = garments(num_pairs) if size == "28" else photographs(num_pairs, int(size))
    image_format = image_format or codec.default_format(*pixels.shape[2:4])
    complaint = subsampling_complaint(subsampling, image_format=image_format, channels=pixels.shape[4])
    if complaint:
        raise click.UsageError(complaint)
    kind = f"{size} px {image_format}" + (f" {subsampling}" if subsampling != FULL_COLOUR else "")
    images, latents = floats(pixels), standard_latents(num_pairs)
    with tempfile.TemporaryDirectory() as folder:
        found = rates(ways(pixels, image_format, subsampling, Path(folder, "out")), rounds=rounds)
        genrep(Path(folder, "set"), images, latents, image_format, subsampling)
        num_bytes = sum(path.stat().st_size for path in Path(folder, "set").glob("*.tar"))
    Report(
        name=f"write-{kind.replace(' px', '').replace(' ', '-').replace(':', '')}",
        about=f"Write a float batch to a finished shard of {num_pairs:,} pairs, {kind}; medians of {rounds} rounds",
        tables=[summary(found, "pairs a CPU-second", to=AUTHORS)],
        targets=[
            Target(f"write {kind}", way, reach, ratio(found, GENREP, way), "%" if way == BOUND else "x")
            for way, reach in REACH.get(kind, {}).items()
        ],
        figures={"pairs_per_cpu_s": statistics.median(found[GENREP]), "bytes_per_pair": num_bytes / num_pairs},
    ).show(out)


def ways(pixels: np.ndarray, image_format: str, subsampling: str, out: Path) -> dict[str, Way]:
    """Each writes below ``out`` and clears it; the naive ones take the first pairs only, they need no more."""
    images, latents = floats(pixels), standard_latents(len(pixels))
    flat = pixels.reshape(-1, *pixels.shape[2:])
    few = len(pixels) // 8

    def cleared(write: Callable[[int], object], num_pairs: int) -> float:
        write(num_pairs)
        shutil.rmtree(out, ignore_errors=True)
        return num_pairs

    return {
        GENREP: lambda: cleared(lambda n: genrep(out, images, latents, image_format, subsampling), len(pixels)),
        AUTHORS: lambda: cleared(lambda n: files_and_pickle(out, images[: 2 * n], latents[:n]), few),
        PLAIN: lambda: cleared(lambda n: shard_writer(out, images[: 2 * n], latents[:n], image_format), few),
        BOUND: lambda: cleared(lambda n: codec.encode(flat, format=image_format, subsampling=subsampling), len(pixels)),
    }


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


def floats(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N, 2, H, W, C) -> (2N, C, H, W) in [-1, 1], as a generator gives them."""
    return torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1


def standard_latents(num_pairs: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_pairs, 2, LATENT_DIM), dtype=np.float32)


def genrep(
    out: Path,
    images: torch.Tensor,
    latents: np.ndarray,
    image_format: str,
    subsampling: str = FULL_COLOUR,
    *,
    shard_size: int | None = None,
) -> None:
    """Through the product's own conversion, encoders and writer: hash, sync, table, rename and manifest included."""
    num_pairs = len(latents)
    _, channels, height, width = images.shape
    image = {"format": image_format, "quality": 95 if image_format == "jpg" else None, "resize": None}
    if subsampling != FULL_COLOUR:
        image["subsampling"] = subsampling
    recipe = {
        "format": FORMAT,
        "kind": "generated",
        "num_samples": num_pairs,
        "shard_size": shard_size or num_pairs,
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
