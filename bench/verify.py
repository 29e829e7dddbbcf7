"""Verifying: a finished set -> whether it is whole, beside reading and hashing the same bytes, in one process.

    python -m bench.verify --size 28
    python -m bench.verify --size 128

Interleaved rounds, medians, bytes from the page cache; wall seconds and CPU-seconds of the process.
"""

import tempfile
import time
from hashlib import sha256
from pathlib import Path

import click
import torch

from bench.report import Report, Row, Target, Way, out_option, rates, ratio, rounds_option, spread
from bench.write import floats, garments, genrep, photographs, standard_latents
from genrep.shards import codec
from genrep.shards.layout import default_shard_size
from genrep.shards.verify import verify

CHUNK = 2**20
BOUND, VERIFY, DEEP = "reading and hashing the tars", "genrep-shards verify", "genrep-shards verify --deep"
REACH = {("28", VERIFY): 0.9, ("128", VERIFY): 0.9, ("128", DEEP): 0.4}


@click.command()
@click.option("--size", default="28", show_default=True, type=click.Choice(["28", "128"]), help="Side of the images.")
@click.option("--n", "num_pairs", type=click.IntRange(min=64), help="Pairs.  [default: two shards]")
@click.option("--shard-size", type=click.IntRange(min=64), help="Pairs a shard.  [default: that of genrep-generate]")
@rounds_option(7)
@out_option
def main(size: str, num_pairs: int | None, shard_size: int | None, rounds: int, out: Path | None) -> None:
    """Megabytes a second of each way, and its share of the bound."""
    torch.set_num_threads(1)
    shard_size = shard_size or default_shard_size(int(size), int(size))
    num_pairs = num_pairs or 2 * shard_size
    pixels = garments(num_pairs) if size == "28" else photographs(num_pairs, int(size))
    image_format = codec.default_format(*pixels.shape[2:4])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set")
        genrep(path, floats(pixels), standard_latents(num_pairs), image_format, shard_size=shard_size)
        megabytes = sum(tar.stat().st_size for tar in path.glob("*.tar")) / 1e6
        ways: dict[str, Way] = {
            BOUND: lambda: hash_all(path),
            VERIFY: lambda: whole(path, megabytes, deep=False),
            DEEP: lambda: whole(path, megabytes, deep=True),
        }
        wall = rates(ways, rounds=rounds, clock=time.perf_counter)
        cpu = rates(ways, rounds=rounds)
    rows: list[Row] = [
        {
            "way": way,
            **spread(cpu[way], "MB a CPU-second"),
            "of the bound": f"{ratio(cpu, way, BOUND):.0%}",
            "MB a second, all cores": spread(wall[way], "")[""],
        }
        for way in ways
    ]
    kind = f"{size} px {image_format}"
    Report(
        name=f"verify-{size}",
        about=f"Verify {num_pairs:,} pairs of {kind} in shards of {shard_size:,}, {megabytes:,.0f} MB in the page "
        f"cache; medians of {rounds} rounds",
        tables=[rows],
        targets=[
            Target(f"{way}, {kind}", BOUND, reach, ratio(cpu, way, BOUND), "%")
            for (side, way), reach in REACH.items()
            if side == size
        ],
        threads="a thread a core and a shard",
    ).show(out)


def hash_all(folder: Path) -> float:
    """Megabytes."""
    num_bytes = 0
    chunk = bytearray(CHUNK)
    view = memoryview(chunk)
    for path in sorted(folder.glob("*.tar")):
        digest = sha256()
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(chunk):
                digest.update(view[:count])
                num_bytes += count
    return num_bytes / 1e6


def whole(folder: Path, megabytes: float, *, deep: bool) -> float:
    if faults := verify(folder, deep=deep):
        raise click.ClickException(f"the set that was just written has faults: {faults[0]}")
    return megabytes


if __name__ == "__main__":
    main()
