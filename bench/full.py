"""The line of the user in full: 1.3 million pairs with steered views by the default generator.

    python -m bench.full

As it stands, on all cores, with some 10 GB of disk for a while; bfloat16, which only some processors have, on a part,
and scaled up.
"""

from pathlib import Path

import click

from bench.report import Report, Row, Target, out_option
from bench.size import Run, generated

SMALL = 5_000  # pairs: a part whose memory is compared and whose time is scaled up
LIMIT_MINUTES = 15
LINE = ["--views", "steer"]


@click.command()
@click.option("--n", "num_pairs", default=1_300_000, show_default=True, type=click.IntRange(min=1))
@out_option
def main(num_pairs: int, out: Path | None) -> None:
    """Minutes, images a second and peak memory of `genrep-generate --n 1300000 --views steer`."""
    small = generated([*LINE, "--n", f"{SMALL}"])
    bfloat16 = generated([*LINE, "--n", f"{SMALL}", "--dtype", "bfloat16"])
    whole = generated([*LINE, "--n", f"{num_pairs}"])
    line = f"genrep-generate --n {num_pairs} --views steer"
    Report(
        name="full",
        about=f"{line}, float32; a part of it; bfloat16; each once",
        tables=[
            [
                row("float32", num_pairs, whole, num_pairs),
                row("float32, a part", SMALL, small, num_pairs),
                row("bfloat16, a part", SMALL, bfloat16, num_pairs),
            ]
        ],
        targets=[
            Target(line, "", LIMIT_MINUTES, whole.seconds / 60, "minutes", at_most=True),
            Target(f"{line}: memory", f"that of {SMALL:,} pairs", 1.1, whole.peak_mb / small.peak_mb, at_most=True),
        ],
        threads="a thread a core renders, one encodes",
    ).show(out)


def row(way: str, num_pairs: int, run: Run, scaled_to: int) -> Row:
    return {
        "way": way,
        "pairs": num_pairs,
        "minutes": run.seconds / 60,
        f"minutes for {scaled_to:,}": run.seconds / 60 * scaled_to / num_pairs,
        "images a second": 2 * num_pairs / run.seconds,
        "peak MB a process": run.peak_mb,
        "shards": run.num_shards,
        "GB": run.set_mb / 1e3,
    }


if __name__ == "__main__":
    main()
