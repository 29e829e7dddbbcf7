"""Start-up: what a user waits for before a command does anything.

    python -m bench.startup

Each is a process of its own, in wall seconds, from the page cache.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from bench.report import Report, Target, out_option, rounds_option, spread

LIMIT_S = 0.5


@click.command()
@rounds_option(10)
@out_option
def main(rounds: int, out: Path | None) -> None:
    """Median seconds of each command over some processes."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/set"
        subprocess.run([programs / "genrep-generate", "--n", "64", "--out", made, "--quiet"], check=True)
        commands: dict[str, list[str | Path]] = {
            "genrep-generate --help": [programs / "genrep-generate", "--help"],
            "genrep-shards info": [programs / "genrep-shards", "info", made],
            "python -c pass": [sys.executable, "-c", "pass"],
            'python -c "import torch"': [sys.executable, "-c", "import torch"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, words in commands.items():
                started = time.perf_counter()
                subprocess.run(words, check=True, capture_output=True)
                if number:  # the first round warms the page cache
                    seconds[name].append(time.perf_counter() - started)
    Report(
        name="startup",
        about=f"Start a process; medians of {rounds}",
        tables=[[{"command": name, **spread(found, "seconds")} for name, found in seconds.items()]],
        targets=[
            Target(f"start-up: {name}", "", LIMIT_S, statistics.median(seconds[name]), "s", at_most=True)
            for name in list(commands)[:2]
        ],
    ).show(out)


if __name__ == "__main__":
    main()
