"""Generating: the whole genrep-generate command beside the bare loop that only renders, in one process.

    python -m bench.generate

Wall seconds: rendering and encoding overlap, so both cores count. The process has begun and torch is loaded; what that
costs is in bench.startup.
"""

import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from bench.report import Report, Target, Way, out_option, rates, ratio, rounds_option, summary
from genrep.generate.command import main as genrep_generate
from genrep.generate.fashion import FashionGenerator
from genrep.generate.generators import LoadedGenerator, load_generator

MICRO_BATCH = 64  # images at once, the command's default
SLOW, SLOW_FOR_S = 200, 5  # images/s at most, seconds
BARE, COMMAND = "bare render loop", "genrep-generate"
UNIT = "images a second"


class Repeated(FashionGenerator):
    """The default generator rendering every batch several times: a slow generator with the same images."""

    def __init__(self, times: str, weights: Path | None = None) -> None:
        super().__init__("class", weights)
        self.times = int(times)

    def render(self, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        for _ in range(self.times):
            images = super().render(latents, labels)
        return images


@click.command()
@click.option("--n", "num_pairs", default=8192, show_default=True, type=click.IntRange(min=64), help="Pairs.")
@rounds_option(3)
@out_option
def main(num_pairs: int, rounds: int, out: Path | None) -> None:
    """Images a second of the command and of the bare loop, for the default generator and for a slow one."""
    torch.set_num_threads(1)
    fast = load_generator("fashion")
    render(fast, 8 * MICRO_BATCH)
    times = math.ceil(speed(fast) / SLOW)
    slow = load_generator("bench.generate:Repeated", arguments={"times": f"{times}"})
    few = SLOW * SLOW_FOR_S // 2 // MICRO_BATCH * MICRO_BATCH
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set")
        ways: dict[str, Way] = {
            COMMAND: lambda: generate(path, num_pairs, generator="fashion"),
            BARE: lambda: render(fast, 2 * num_pairs),
            f"{COMMAND} slow": lambda: generate(path, few, generator=slow.spec, generator_arg=f"times={times}"),
            f"{BARE} slow": lambda: render(slow, 2 * few),
        }
        found = rates(ways, rounds=rounds, clock=time.perf_counter, warm=False)
    Report(
        name="generate",
        about=f"Generate {num_pairs:,} pairs by the default generator, {few:,} by one of {SLOW} images/s or less (the "
        f"same, rendering {times} times), float32, micro-batches of {MICRO_BATCH}; medians of {rounds} rounds",
        tables=[
            [
                {"generator": name or "default", **row}
                for name in ("", "slow")
                for row in summary({way: found[f"{way} {name}".strip()] for way in (COMMAND, BARE)}, UNIT, to=BARE)
            ]
        ],
        targets=[
            Target("generate, default generator, float32", BARE, 0.7, ratio(found, COMMAND, BARE), "%"),
            Target(
                f"generate, a generator of {SLOW} images/s",
                BARE,
                0.97,
                ratio(found, f"{COMMAND} slow", f"{BARE} slow"),
                "%",
            ),
        ],
        threads="one thread renders, one encodes",
    ).show(out)


def generate(out: Path, num_pairs: int, **options: Any) -> int:
    """The command as a user types it; returns how many images it wrote."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    genrep_generate([*words, "--n", f"{num_pairs}", "--out", f"{out}", "--quiet"], standalone_mode=False)
    shutil.rmtree(out)
    return 2 * num_pairs


@torch.inference_mode()
def render(generator: LoadedGenerator, num_images: int) -> int:
    """Nothing but the network, on one micro-batch again and again."""
    latents = torch.randn(MICRO_BATCH, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(MICRO_BATCH) % generator.num_classes
    for _ in range(num_images // MICRO_BATCH):
        generator.render(latents, labels)
    return num_images // MICRO_BATCH * MICRO_BATCH


def speed(generator: LoadedGenerator) -> float:
    """Images a CPU-second: other work on the machine must not make the slow generator fast."""
    started = time.process_time()
    return render(generator, 32 * MICRO_BATCH) / (time.process_time() - started)


if __name__ == "__main__":
    main()
