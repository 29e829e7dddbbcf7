"""Reading: a finished set -> two augmented views of every sample, beside the naive ways and the bound, in one process.

    python -m bench.read --size 28
    python -m bench.read --size 128

One thread each, interleaved rounds, medians; in CPU-seconds, which other work on the machine changes least.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

import genrep.shards
from bench.write import LATENT_DIM, files_and_pickle, garments, photographs
from bench.write import genrep as write_genrep
from genrep.shards import codec
from genrep.shards.ffcv import FfcvSet, export_ffcv
from genrep.shards.writer import DatasetWriter
from genrep.train.augment import draw_parameters, transform_into
from genrep.train.config import TrainConfig, resolve
from genrep.train.data import Loader


@click.command()
@click.option("--size", default="28", show_default=True, type=click.Choice(["28", "128"]), help="Side of the images.")
@click.option("--n", "num_pairs", default=1024, show_default=True, type=click.IntRange(min=256), help="Pairs.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
def main(size: str, num_pairs: int, rounds: int) -> None:
    """Print a Markdown table: pairs a CPU-second of each way, its spread, and the ratio of genrep on tars to it."""
    torch.set_num_threads(1)
    pixels = garments(num_pairs) if size == "28" else photographs(num_pairs, int(size))
    with tempfile.TemporaryDirectory() as folder:
        speeds = measured(ways(pixels, Path(folder)), num_pairs, rounds)
    ours = statistics.median(next(iter(speeds.values())))
    click.echo(
        f"{size} px, {num_pairs} pairs, {rounds} rounds; torch {torch.__version__}, numpy {np.__version__}, ", nl=False
    )
    click.echo(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, one thread\n")
    click.echo("| way | pairs a CPU-second | least to most | genrep's ratio |\n|---|---|---|---|")
    for name, found in speeds.items():
        median = statistics.median(found)
        click.echo(f"| {name} | {median:,.0f} | {min(found):,.0f} to {max(found):,.0f} | {ours / median:.2f} |")


def measured(ways: dict[str, Callable[[], object]], num_pairs: int, rounds: int) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if number:  # the first round warms up
                speeds[name].append(num_pairs / (time.process_time() - started))
    return speeds


def ways(pixels: np.ndarray, folder: Path) -> dict[str, Callable[[], object]]:
    """Each goes once over the same pairs, in its own layout under ``folder``."""
    num_pairs = len(pixels)
    image_format = codec.default_format(*pixels.shape[2:4])
    quality = 95 if image_format == "jpg" else None
    images = torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = np.random.default_rng(0).standard_normal((num_pairs, 2, LATENT_DIM), dtype=np.float32)
    write_genrep(folder / "set", images, latents, image_format, quality)
    DatasetWriter(folder / "set", json.loads((folder / "set" / "recipe.json").read_text())).finish()
    files_and_pickle(folder / "files", images, latents)
    shards = genrep.shards.open(folder / "set")
    export_ffcv(shards, folder / "set.beton")
    config = resolve(shards, method="simclr", views="both", batch_size=256, steps=num_pairs // 256)
    plain = torchvision_transform(config)
    file = FfcvSet(folder / "set.beton", shards)
    whole = num_pairs // 256 * 256
    batches = [
        [np.ascontiguousarray(each[:, view]) for view in range(2)] for each in np.split(pixels[:whole], whole // 256)
    ]
    return {
        f"genrep, tar of {image_format}": lambda: exhausted(Loader(shards, config).batches(0)),
        "genrep, FFCV file, raw": lambda: exhausted(Loader(shards, config, images=file).batches(0)),
        "PNG files, Pillow, torchvision v1, as the paper's authors": lambda: files_and_pillow(folder / "files", plain),
        f"webdataset, Pillow, torchvision v1, tar of {image_format}": lambda: webdataset_and_pillow(
            folder / "set", image_format, plain
        ),
        **ffcv_way(folder / "set.beton", config),
        "batches of pixels in memory, augmentation alone (bound)": lambda: augmentation_alone(batches, config),
    }


def exhausted(batches: object) -> None:
    for _ in batches:  # type: ignore[attr-defined]
        pass


def torchvision_transform(config: TrainConfig) -> Callable[[Image.Image], torch.Tensor]:
    """T_x of the config from torchvision's first transforms, on Pillow images, one at a time."""
    from torchvision import transforms

    pixels = config.pixels
    jitter = transforms.ColorJitter(pixels.brightness, pixels.contrast, pixels.saturation, pixels.hue)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(config.crop, scale=pixels.scale, ratio=pixels.ratio),
            transforms.RandomHorizontalFlip(pixels.flip_p),
            transforms.RandomApply([jitter], pixels.colour_p),
            transforms.RandomGrayscale(pixels.grey_p),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
            transforms.RandomErasing(pixels.erase_p),
        ]
    )


def files_and_pillow(folder: Path, transform: Callable[[Image.Image], torch.Tensor]) -> None:
    """Both images of every pair opened from files, in a random order, and collated to batches."""
    pairs = sorted(folder.glob("*_0.png"))
    batch = []
    for number in np.random.default_rng(0).permutation(len(pairs)):
        names = pairs[number], pairs[number].with_name(pairs[number].name.replace("_0.png", "_1.png"))
        batch.append([transform(Image.open(name).convert("RGB")) for name in names])
        batch = collated(batch)


def webdataset_and_pillow(folder: Path, image_format: str, transform: Callable[[Image.Image], torch.Tensor]) -> None:
    """The way the webdataset manual shows: stream, shuffle buffer, decode, transform."""
    import webdataset

    dataset = webdataset.WebDataset(str(folder / "shard-000000.tar"), shardshuffle=False).shuffle(2048).decode("pilrgb")
    batch = []
    for sample in dataset:
        batch.append([transform(sample[f"{name}.{image_format}"]) for name in ("anchor", "view1")])
        batch = collated(batch)


def collated(batch: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """What is left after whole batches are stacked."""
    if len(batch) < 256:
        return batch
    for images in zip(*batch, strict=True):
        torch.stack(images)
    return []


def ffcv_way(path: Path, config: TrainConfig) -> dict[str, Callable[[], object]]:
    """FFCV's own loader before genrep's augmentation, where FFCV is installed."""
    try:
        from ffcv.loader import Loader as FfcvLoader
        from ffcv.loader import OrderOption
    except ImportError:
        return {}
    unused = {"latents": None, "label": None, "index": None}
    loader = FfcvLoader(str(path), batch_size=256, num_workers=1, order=OrderOption.RANDOM, pipelines=unused)

    def once() -> None:
        for number, pair in enumerate(loader):
            augmented([images.numpy() for images in pair], np.arange(256 * number, 256 * (number + 1)), config)

    return {"FFCV's own loader, raw, then genrep's augmentation": once}


def augmentation_alone(batches: list[list[np.ndarray]], config: TrainConfig) -> None:
    for number, pair in enumerate(batches):
        augmented(pair, np.arange(256 * number, 256 * (number + 1)), config)


def augmented(pair: list[np.ndarray], samples: np.ndarray, config: TrainConfig) -> None:
    out = np.empty((2, len(samples), config.crop, config.crop, 3), np.float32)
    for view, images in enumerate(pair):
        parameters = draw_parameters(
            config.pixels, samples, seed=0, epoch=0, view=view, source=images.shape[1:3], crop=config.crop
        )
        transform_into(out[view], images, parameters, mean=config.mean, std=config.std)


if __name__ == "__main__":
    main()
