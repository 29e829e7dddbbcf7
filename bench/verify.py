"""Verifying: a finished set -> whether it is whole, beside reading and hashing the same bytes, in one process.

    python -m bench.verify --size 28
    python -m bench.verify --size 128

Interleaved rounds, medians, bytes from the page cache; wall seconds and CPU-seconds of the process.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import click
import numpy as np
import torch

from bench.write import LATENT_DIM, garments, genrep_set, photographs
from genrep.shards import codec
from genrep.shards.verify import verify

CHUNK = 2**20


@click.command()
@click.option("--size", default="28", show_default=True, type=click.Choice(["28", "128"]), help="Side of the images.")
@click.option("--n", "num_pairs", default=8192, show_default=True, type=click.IntRange(min=64), help="Pairs.")
@click.option("--shard-size", default=2048, show_default=True, type=click.IntRange(min=64), help="Pairs a shard.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
def main(size: str, num_pairs: int, shard_size: int, rounds: int) -> None:
    """Print a Markdown table: megabytes a second of each way, and its share of the bound."""
    torch.set_num_threads(1)
    pixels = garments(num_pairs) if size == "28" else photographs(num_pairs, int(size))
    images = torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = np.random.default_rng(0).standard_normal((num_pairs, 2, LATENT_DIM), dtype=np.float32)
    image_format = codec.default_format(*pixels.shape[2:4])
    quality = 95 if image_format == "jpg" else None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        genrep_set(out, images, latents, image_format, quality, shard_size=shard_size)
        megabytes = sum(path.stat().st_size for path in out.glob("*.tar")) / 1e6
        ways: dict[str, Callable[[], object]] = {
            "reading and hashing the tars (bound)": lambda: hash_all(out),
            "genrep-shards verify": lambda: whole(out, deep=False),
            "genrep-shards verify --deep": lambda: whole(out, deep=True),
        }
        wall: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                started, started_cpu = time.perf_counter(), time.process_time()
                way()
                if number:  # the first round warms up
                    wall[name].append(megabytes / (time.perf_counter() - started))
                    cpu[name].append(megabytes / (time.process_time() - started_cpu))
    click.echo(f"{size} px {image_format}, {num_pairs} pairs, {megabytes:,.0f} MB, {rounds} rounds; ", nl=False)
    click.echo(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores\n")
    click.echo("| way | MB a second | of the bound | MB a CPU-second | of the bound |\n|---|---|---|---|---|")
    bound, bound_cpu = (statistics.median(next(iter(found.values()))) for found in (wall, cpu))
    for name in ways:
        speed, speed_cpu = statistics.median(wall[name]), statistics.median(cpu[name])
        click.echo(f"| {name} | {speed:,.0f} | {speed / bound:.0%} | {speed_cpu:,.0f} | {speed_cpu / bound_cpu:.0%} |")


def hash_all(folder: Path) -> None:
    chunk = bytearray(CHUNK)
    view = memoryview(chunk)
    for path in sorted(folder.glob("*.tar")):
        digest = sha256()
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(chunk):
                digest.update(view[:count])


def whole(folder: Path, *, deep: bool) -> None:
    if faults := verify(folder, deep=deep):
        raise click.ClickException(f"the set that was just written has faults: {faults[0]}")


if __name__ == "__main__":
    main()
