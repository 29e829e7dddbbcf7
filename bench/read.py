"""Reading: a finished set -> two augmented views of every sample, beside the naive ways and the bound, in one process.

    python -m bench.read --size 28
    python -m bench.read --size 128

One thread each, interleaved rounds, medians; in CPU-seconds, which other work on the machine changes least.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

import genrep.shards
from bench.report import Report, Target, Way, out_option, rates, ratio, rounds_option, summary
from bench.write import files_and_pickle, floats, garments, photographs, standard_latents
from bench.write import genrep as write_genrep
from genrep.shards import codec
from genrep.shards.ffcv import FfcvSet, export_ffcv
from genrep.train.augment import draw_parameters, transform_into
from genrep.train.config import TrainConfig, resolve
from genrep.train.data import Batch, Loader

BATCH = 256
TARS, FFCV, AUTHORS, PLAIN = (
    "genrep, tars",
    "genrep, FFCV file",
    "the authors' way",
    "webdataset, Pillow, torchvision v1",
)
BOUND = "augmentation alone"
REACH = {  # side -> (genrep's way, other way) -> its ratio to it
    "28": {(TARS, AUTHORS): 12},
    "128": {(TARS, AUTHORS): 8.5, (FFCV, AUTHORS): 12, (TARS, PLAIN): 6, (TARS, BOUND): 0.3, (FFCV, BOUND): 0.5},
}


@click.command()
@click.option("--size", default="28", show_default=True, type=click.Choice(["28", "128"]), help="Side of the images.")
@click.option("--n", "num_pairs", default=2048, show_default=True, type=click.IntRange(min=2 * BATCH), help="Pairs.")
@rounds_option(5)
@out_option
def main(size: str, num_pairs: int, rounds: int, out: Path | None) -> None:
    """Pairs a CPU-second of each way, its spread, and its ratio to the authors' way."""
    torch.set_num_threads(1)
    pixels = garments(num_pairs) if size == "28" else photographs(num_pairs, int(size))
    with tempfile.TemporaryDirectory() as folder:
        found = rates(ways(pixels, Path(folder)), rounds=rounds)
    kind = f"{size} px {codec.default_format(*pixels.shape[2:4])}"
    Report(
        name=f"read-{size}",
        about=f"Read {num_pairs:,} pairs of {kind} as two augmented views in batches of {BATCH}; "
        f"medians of {rounds} rounds",
        tables=[summary(found, "pairs a CPU-second", to=AUTHORS)],
        targets=[
            Target(f"read {kind}: {own}", other, reach, ratio(found, own, other), "%" if other == BOUND else "x")
            for (own, other), reach in REACH[size].items()
        ],
    ).show(out)


def ways(pixels: np.ndarray, folder: Path) -> dict[str, Way]:
    """Each goes once over the same pairs, in its own layout under ``folder``; the naive ones over the first."""
    num_pairs, few = len(pixels), len(pixels) // (4 * BATCH) * BATCH or BATCH
    image_format = codec.default_format(*pixels.shape[2:4])
    images, latents = floats(pixels), standard_latents(num_pairs)
    write_genrep(folder / "set", images, latents, image_format)
    write_genrep(folder / "few", images[: 2 * few], latents[:few], image_format)
    files_and_pickle(folder / "files", images[: 2 * few], latents[:few])
    shards = genrep.shards.open(folder / "set")
    export_ffcv(shards, folder / "set.beton")
    num_batches = num_pairs // BATCH
    config = resolve(shards, method="simclr", views="both", batch_size=BATCH, steps=num_batches)
    plain = torchvision_transform(config)
    file = FfcvSet(folder / "set.beton", shards)
    batches = [
        [np.ascontiguousarray(each[:, view]) for view in range(2)]
        for each in np.split(pixels[: num_batches * BATCH], num_batches)
    ]
    return {
        TARS: lambda: counted(Loader(shards, config).batches(0)),
        FFCV: lambda: counted(Loader(shards, config, images=file).batches(0)),
        AUTHORS: lambda: BATCH * files_and_pillow(folder / "files", plain),
        PLAIN: lambda: BATCH * webdataset_and_pillow(folder / "few", image_format, plain),
        **ffcv_way(folder / "set.beton", config),
        BOUND: lambda: augmentation_alone(batches, config),
    }


def counted(batches: Iterable[Batch]) -> int:
    """Pairs in the batches."""
    return sum(len(batch.samples) for batch in batches)


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


def files_and_pillow(folder: Path, transform: Callable[[Image.Image], torch.Tensor]) -> int:
    """Both images of every pair opened from files, in a random order, collated to batches, which are counted."""
    pairs = sorted(folder.glob("*_0.png"))
    batch: list[list[torch.Tensor]] = []
    for number in np.random.default_rng(0).permutation(len(pairs)):
        names = pairs[number], pairs[number].with_name(pairs[number].name.replace("_0.png", "_1.png"))
        batch.append([transform(Image.open(name).convert("RGB")) for name in names])
        batch = collated(batch)
    return len(pairs) // BATCH


def webdataset_and_pillow(folder: Path, image_format: str, transform: Callable[[Image.Image], torch.Tensor]) -> int:
    """The way the webdataset manual shows: stream, shuffle buffer, decode, transform; batches are counted."""
    import webdataset

    dataset = webdataset.WebDataset(str(folder / "shard-000000.tar"), shardshuffle=False).shuffle(2048).decode("pilrgb")
    batch: list[list[torch.Tensor]] = []
    num_batches = 0
    for sample in dataset:
        batch.append([transform(sample[f"{name}.{image_format}"]) for name in ("anchor", "view1")])
        batch = collated(batch)
        num_batches += not batch
    return num_batches


def collated(batch: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """What is left after whole batches are stacked."""
    if len(batch) < BATCH:
        return batch
    for images in zip(*batch, strict=True):
        torch.stack(images)
    return []


def ffcv_way(path: Path, config: TrainConfig) -> dict[str, Way]:
    """FFCV's own loader before genrep's augmentation, where FFCV is installed."""
    try:
        from ffcv.loader import Loader as FfcvLoader
        from ffcv.loader import OrderOption
    except ImportError:
        return {}
    unused = {"latents": None, "label": None, "index": None}
    loader = FfcvLoader(str(path), batch_size=BATCH, num_workers=1, order=OrderOption.RANDOM, pipelines=unused)

    def once() -> int:
        return sum(augmented([images.numpy() for images in pair], number, config) for number, pair in enumerate(loader))

    return {"FFCV's own loader, genrep's augmentation": once}


def augmentation_alone(batches: list[list[np.ndarray]], config: TrainConfig) -> int:
    return sum(augmented(pair, number, config) for number, pair in enumerate(batches))


def augmented(pair: list[np.ndarray], number: int, config: TrainConfig) -> int:
    """T_x of both images of the pairs in a batch; returns how many they are."""
    samples = np.arange(number * BATCH, number * BATCH + len(pair[0]))
    out = np.empty((2, len(samples), config.crop, config.crop, 3), np.float32)
    for view, images in enumerate(pair):
        parameters = draw_parameters(
            config.pixels, samples, seed=0, epoch=0, view=view, source=images.shape[1:3], crop=config.crop
        )
        transform_into(out[view], images, parameters, mean=config.mean, std=config.std)
    return len(samples)


if __name__ == "__main__":
    main()
