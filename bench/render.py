"""Rendering: BigGAN-deep-128 with random weights on a CPU, from the published call to folded and exported networks.

    python -m bench.render
    python -m bench.render --config tiny --rounds 1

One thread, interleaved rounds, medians; in CPU-seconds, which other work on the machine changes least.
"""

import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from genrep.generate import biggan
from genrep.generate.backends import rendering
from genrep.generate.defaults import make_recipe
from genrep.generate.generators import LoadedGenerator
from genrep.generate.render import to_pixels
from genrep.shards.errors import DataError

TRUNCATION = 1.0

# way -> options of its recipe, as genrep-generate takes them
GENREP: dict[str, dict[str, Any]] = {
    "genrep": {},
    "genrep --fold": {"folding": True},
    "genrep --fold --compile": {"folding": True, "compile": True},
    "genrep --backend onnxruntime": {"backend": "onnxruntime"},
    "genrep --fold --backend onnxruntime": {"folding": True, "backend": "onnxruntime"},
    "genrep --fold --dtype bfloat16": {"folding": True, "dtype": "bfloat16"},
}

Way = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    """Rates in images a CPU-second; differences of pixels to the package's network in eval mode."""

    way: str
    median: float
    least: float
    most: float
    ratio: float
    grey_levels: int
    pixels_changed: float
    prepared_in_s: float


@click.command()
@click.option(
    "--config",
    default="published",
    show_default=True,
    type=click.Choice(["published", "tiny"]),
    help="Size of the network.",
)
@click.option(
    "--micro-batch", default=8, show_default=True, type=click.IntRange(min=1), help="Images rendered at once."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--out", type=click.Path(path_type=Path), help="File for the same figures as JSON.")
def main(config: str, micro_batch: int, rounds: int, out: Path | None) -> None:
    """Print a Markdown table: images a CPU-second of each way, and how far its pixels are from eval mode."""
    torch.set_num_threads(1)
    network, generator = networks(config)
    latents = torch.randn(micro_batch, generator.latent_dim, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    labels = torch.arange(micro_batch)
    ways, prepared_in_s = prepared(network, generator, latents, labels)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    images: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            images[name] = way()
            speeds[name].append(micro_batch / (time.process_time() - started))
    rows = [row(name, speeds, images, prepared_in_s[name]) for name in ways]
    about = (
        f"BigGAN-deep-128, {config} size, random weights, micro-batch {micro_batch}, {rounds} rounds; "
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, one thread"
    )
    click.echo(f"{about}\n\n{table(rows)}")
    if out:
        out.write_text(json.dumps({"about": about, "rows": [asdict(found) for found in rows]}, indent=2) + "\n")


def networks(config: str) -> tuple[torch.nn.Module, LoadedGenerator]:
    """The package's network, and genrep's adapter with the same weights."""
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

    fields = BigGANConfig() if config == "published" else BigGANConfig.from_dict(biggan._TINY)
    state = biggan._random_state(fields)
    network = BigGAN(fields)
    network.load_state_dict(state)
    adapter = biggan.BigGanDeep("biggan-deep-128", fields, state, source=config, bn="interpolated")
    return network, LoadedGenerator(adapter, spec="biggan-deep-128", arguments={})


def prepared(
    network: torch.nn.Module, generator: LoadedGenerator, latents: Tensor, labels: Tensor
) -> tuple[dict[str, Way], dict[str, float]]:
    """Every way that this machine can go, run once, and the seconds until then."""
    ways: dict[str, Way] = {}
    prepared_in_s: dict[str, float] = {}

    drifting, still = copy.deepcopy(network).train(), network.eval()

    def package(network: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            return network(latents, F.one_hot(labels, generator.num_classes).float(), TRUNCATION)

    ways["published: no_grad, never eval()"] = lambda: package(drifting)
    ways["the package, eval()"] = lambda: package(still)
    for name, options in GENREP.items():
        started = time.perf_counter()
        try:
            ways[name] = way_of_genrep(generator, options, latents, labels)
            ways[name]()
        except DataError as error:
            ways.pop(name, None)
            click.echo(f"{name} is left out: {error}", err=True)
        prepared_in_s[name] = time.perf_counter() - started
    for name, way in ways.items():
        if name not in prepared_in_s:
            way()
            prepared_in_s[name] = 0.0
    return ways, prepared_in_s


def way_of_genrep(generator: LoadedGenerator, options: dict[str, Any], latents: Tensor, labels: Tensor) -> Way:
    micro_batch = len(latents)
    recipe = make_recipe(generator, micro_batch=micro_batch, shard_size=micro_batch, **options)
    generator.set_truncation(TRUNCATION)
    render = rendering(generator, recipe, torch.device("cpu"))
    noise_seeds = torch.zeros(micro_batch, dtype=torch.int64)
    dtype = getattr(torch, recipe.render.dtype)

    @torch.inference_mode()
    def way() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            return render(latents, labels, noise_seeds)

    return way


def row(name: str, speeds: dict[str, list[float]], images: dict[str, Tensor], prepared_in_s: float) -> Row:
    published, expected = next(iter(speeds)), images["the package, eval()"]
    differences = (to_pixels(images[name]).int() - to_pixels(expected).int()).abs()
    median = statistics.median(speeds[name])
    return Row(
        way=name,
        median=median,
        least=min(speeds[name]),
        most=max(speeds[name]),
        ratio=median / statistics.median(speeds[published]),
        grey_levels=int(differences.max()),
        pixels_changed=(differences > 0).float().mean().item(),
        prepared_in_s=prepared_in_s,
    )


def table(rows: list[Row]) -> str:
    head = ["way", "images a CPU-second", "least to most", "x published", "grey levels from eval()", "prepared in"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for found in rows:
        changed = f"at most {found.grey_levels}, in {found.pixels_changed:.2%} of values"
        lines.append(
            f"| {found.way} | {found.median:.3g} | {found.least:.3g} to {found.most:.3g} | {found.ratio:.2f} | "
            f"{changed} | {found.prepared_in_s:.0f} s |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
