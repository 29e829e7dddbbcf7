"""Rendering: BigGAN-deep-128 with random weights on a CPU, from the published call to folded and exported networks.

    python -m bench.render
    python -m bench.render --config tiny --rounds 1

One thread, interleaved rounds, medians; in CPU-seconds, which other work on the machine changes least.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.report import Report, Row, Target, out_option, rates, ratio, rounds_option, summary
from genrep.generate import biggan
from genrep.generate.backends import rendering
from genrep.generate.defaults import make_recipe
from genrep.generate.generators import LoadedGenerator
from genrep.generate.pixels import to_pixels
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

PUBLISHED, EVAL = "published: no_grad, never eval()", "the package, eval()"
REACH = {"genrep --fold --compile": 2, "genrep --fold --backend onnxruntime": 4}  # at equal outputs

Rendered = Callable[[], Tensor]


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
@rounds_option(3)
@out_option
def main(config: str, micro_batch: int, rounds: int, out: Path | None) -> None:
    """Images a CPU-second of each way, and how far its pixels are from eval mode."""
    torch.set_num_threads(1)
    network, generator = networks(config)
    latents = torch.randn(micro_batch, generator.latent_dim, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    labels = torch.arange(micro_batch)
    ways, prepared_in_s = prepared(network, generator, latents, labels)
    images: dict[str, Tensor] = {}

    def rendered(name: str) -> int:
        images[name] = ways[name]()
        return micro_batch

    found = rates({name: lambda name=name: rendered(name) for name in ways}, rounds=rounds, warm=False)
    rows: list[Row] = [
        {
            **row,
            "from eval()": difference(images[row["way"]], images[EVAL]),
            "prepared in": f"{prepared_in_s[row['way']]:.0f} s",
        }
        for row in summary(found, "images a CPU-second", to=PUBLISHED)
    ]
    Report(
        name="render",
        about=f"Render BigGAN-deep-128, {config} size, random weights, micro-batch {micro_batch}; "
        f"medians of {rounds} rounds",
        tables=[rows],
        targets=[
            Target(f"{name}, BigGAN-deep-128", "the published call", reach, ratio(found, name, PUBLISHED))
            for name, reach in REACH.items()
            if name in found
        ],
    ).show(out)


def difference(images: Tensor, expected: Tensor) -> str:
    levels = (to_pixels(images).int() - to_pixels(expected).int()).abs()
    return f"at most {levels.max()} grey levels, in {(levels > 0).float().mean():.2%} of values"


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
) -> tuple[dict[str, Rendered], dict[str, float]]:
    """Every way that this machine can go, and the seconds until those of genrep had run once."""
    ways: dict[str, Rendered] = {}
    prepared_in_s: dict[str, float] = {}

    drifting, still = copy.deepcopy(network).train(), network.eval()

    def package(network: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            return network(latents, F.one_hot(labels, generator.num_classes).float(), TRUNCATION)

    ways[PUBLISHED] = lambda: package(drifting)
    ways[EVAL] = lambda: package(still)
    for name, options in GENREP.items():
        if options.get("dtype") == "bfloat16" and "AVX512" not in torch.backends.cpu.get_cpu_capability():
            click.echo(f"{name}: this processor has no AVX-512, on which it is many times slower", err=True)
            continue
        started = time.perf_counter()
        try:
            ways[name] = way_of_genrep(generator, options, latents, labels)
            ways[name]()
        except DataError as error:
            ways.pop(name, None)
            click.echo(f"{name} is left out: {error}", err=True)
        prepared_in_s[name] = time.perf_counter() - started
    return ways, {name: prepared_in_s.get(name, 0.0) for name in ways}


def way_of_genrep(generator: LoadedGenerator, options: dict[str, Any], latents: Tensor, labels: Tensor) -> Rendered:
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


if __name__ == "__main__":
    main()
