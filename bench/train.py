"""Training: genrep-train's loop beside the bare network and beside lightly's SimCLR loop, in one process.

    python -m bench.train

Same 28 px images, same encoder (that of make demo), same batch. Wall seconds of the steps after the first few: the
loader works beside the network. What loading itself costs is measured alone, in CPU-seconds.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import genrep.shards
from bench.report import Report, Target, Way, out_option, rates, ratio, rounds_option, summary
from bench.write import floats, garments, standard_latents
from bench.write import genrep as write_genrep
from genrep.shards.reader import ShardDataset
from genrep.train.backbones import build_backbone, projection_head
from genrep.train.config import TrainConfig, resolve
from genrep.train.data import Loader
from genrep.train.loop import Metrics, train
from genrep.train.losses import nt_xent
from genrep.train.optimisers import build_optimiser

BATCH, FIRST = 256, 4  # pairs; steps that are not counted: loaders have some batches ready when training begins
BARE, GENREP, LIGHTLY = "bare network on a tensor in memory", "genrep-train", "lightly's SimCLR loop"


@click.command()
@click.option("--steps", default=14, show_default=True, type=click.IntRange(min=FIRST + 2), help="Of each way a round.")
@rounds_option(3)
@out_option
def main(steps: int, rounds: int, out: Path | None) -> None:
    """Images a second of three training loops, the share of time spent waiting for data, and what loading costs."""
    torch.set_num_threads(1)
    pixels = garments(BATCH * steps)
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        write_genrep(Path(folder, "set"), floats(pixels), standard_latents(len(pixels)), "png")
        files = anchor_files(Path(folder, "files"), pixels)
        shards = genrep.shards.open(Path(folder, "set"))
        config = resolve(shards, method="simclr", views="pixel", batch_size=BATCH, steps=steps)
        loops: dict[str, Callable[[Path], list[float]]] = {
            GENREP: lambda run: genrep_loop(shards, config, run, waits),
            BARE: lambda run: bare_loop(shards, config),
            f"{LIGHTLY}, 1 worker": lambda run: lightly_loop(files, config, workers=1),
            f"{LIGHTLY}, 2 workers": lambda run: lightly_loop(files, config, workers=2),
        }
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(rounds):
            for name, loop in loops.items():
                ends = loop(Path(folder, f"run{number}"))
                speeds[name].append(2 * BATCH * (len(ends) - FIRST) / (ends[-1] - ends[FIRST - 1]))
        loaders: dict[str, Way] = {
            GENREP: lambda: sum(len(batch.images) for batch in Loader(shards, config).batches(0)),
            LIGHTLY: lambda: sum(2 * len(first) for (first, _), *_ in lightly_loader(files, config, workers=0)),
        }
        loading = rates(loaders, rounds=rounds)
    fastest = max(list(loops)[2:], key=lambda name: statistics.median(speeds[name]))
    Report(
        name="train",
        about=f"Train SimCLR on 28 px pairs, {config.backbone}, batches of {BATCH} pairs, {steps - FIRST} steps after "
        f"the first {FIRST}; then load the same batches and nothing else; medians of {rounds} rounds",
        tables=[
            summary(speeds, "images a second", to=BARE),
            summary(loading, "images loaded a CPU-second", to=LIGHTLY),
        ],
        targets=[
            Target("train: step time", BARE, 0.95, ratio(speeds, GENREP, BARE), "%"),
            Target("train: data wait", "the step's time", 0.05, statistics.median(waits), "%", at_most=True),
            Target("train: images/s", fastest, 1.4, ratio(speeds, GENREP, fastest)),
            Target("train: CPU time of loading", LIGHTLY, 0.1, ratio(loading, LIGHTLY, GENREP), "%", at_most=True),
        ],
        threads="one thread for the network, loading beside it",
    ).show(out)


def genrep_loop(shards: ShardDataset, config: TrainConfig, run: Path, waits: list[float]) -> list[float]:
    """As the command trains; returns when each step ended, and adds the share of time that was waiting."""
    ends: list[float] = []
    steps: list[Metrics] = []

    def on_step(metrics: Metrics) -> None:
        ends.append(time.perf_counter())
        steps.append(metrics)

    train(shards, config, run, on_step=on_step)
    seconds = [2 * BATCH / step.images_per_s for step in steps[FIRST:]]
    waited = [step.data_wait * each for step, each in zip(steps[FIRST:], seconds, strict=True)]
    waits.append(sum(waited) / sum(seconds))
    return ends


def bare_loop(shards: ShardDataset, config: TrainConfig) -> list[float]:
    """Forward, loss, backward and optimiser of the same network, again and again on one batch."""
    batch = next(Loader(shards, config).batches(0))
    backbone = build_backbone(config.backbone)
    network = nn.Sequential(backbone, projection_head(backbone.feature_dim, config.projection_dim))
    network.to(memory_format=torch.channels_last)
    optimiser = build_optimiser(config.optimiser, network.parameters())
    ends = []
    for _ in range(config.steps):
        optimiser.zero_grad()
        projections = F.normalize(network(batch.images), dim=1)
        loss = nt_xent(projections[:BATCH], projections[BATCH:], temperature=config.temperature)
        loss.backward()
        optimiser.step()
        loss.item()
        ends.append(time.perf_counter())
    return ends


def lightly_loop(files: Path, config: TrainConfig, *, workers: int) -> list[float]:
    """The loop of lightly's SimCLR example."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    backbone = build_backbone(config.backbone)
    width = backbone.feature_dim
    network = nn.Sequential(backbone, SimCLRProjectionHead(width, width, config.projection_dim))
    criterion = NTXentLoss(temperature=config.temperature)
    optimiser = build_optimiser(config.optimiser, network.parameters())
    ends = []
    for (first, second), *_ in lightly_loader(files, config, workers=workers):
        loss = criterion(network(first), network(second))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        ends.append(time.perf_counter())
    return ends


def lightly_loader(files: Path, config: TrainConfig, *, workers: int) -> DataLoader:
    """Its data set and transform with the strengths of T_x; what T_x leaves out, erasing apart, is off."""
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    pixels = config.pixels
    transform = SimCLRTransform(
        input_size=config.crop,
        min_scale=pixels.scale[0],
        hf_prob=pixels.flip_p,
        cj_prob=pixels.colour_p,
        cj_bright=pixels.brightness,
        cj_contrast=pixels.contrast,
        cj_sat=pixels.saturation,
        cj_hue=pixels.hue,
        random_gray_scale=pixels.grey_p,
        gaussian_blur=0,
        normalize={"mean": list(config.mean), "std": list(config.std)},
    )
    dataset = LightlyDataset(str(files), transform=transform)
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=workers)


def anchor_files(folder: Path, pixels: np.ndarray) -> Path:
    """The first image of every pair as a PNG file."""
    folder.mkdir()
    for number, pair in enumerate(pixels):
        Image.fromarray(pair[0, :, :, 0]).save(folder / f"{number:06d}.png")
    return folder


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's, about packages that it does without
        main()
