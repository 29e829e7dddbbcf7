"""genrep-shards export: a set in the layout of another reader."""

import signal
from pathlib import Path
from typing import Any

import click

from genrep.shards.cli import Group, faults_in_one_line, folder_argument, progress_bar, quiet_option


@click.group(cls=Group)
def export() -> None:
    """Write a set in the layout of another reader; the set stays as it is."""


@export.command()
@folder_argument
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write.  [default: DIR.beton beside DIR]"
)
@click.option(
    "--images",
    type=click.Choice(["raw", "jpg"]),
    default="raw",
    show_default=True,
    help="Pixels, which need no decoding, or the JPEG files of the set as they are.",
)
@quiet_option
def ffcv(folder: Path, *, out: Path | None, images: Any, quiet: bool) -> None:
    """One file for FFCV's loader and for genrep-train --loader ffcv.

    Its fields are anchor, view1 ... viewK, latents, label and index. FILE.json beside it holds the sha256 of the
    set's manifest.

    \b
    Example:
      genrep-shards export ffcv data --out data.beton
      genrep-train --shards data --loader ffcv
    """
    from genrep.shards.ffcv import beside, export_ffcv
    from genrep.shards.reader import ShardDataset

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        with faults_in_one_line():
            shards = ShardDataset(folder)
            out = out or beside(folder)
            with progress_bar(" samples", quiet=quiet) as show:
                size = export_ffcv(shards, out, images=images, progress=show)
    except KeyboardInterrupt:
        raise click.ClickException("interrupted, nothing was written; run the same command to start again") from None
    if not quiet:
        click.echo(f"{len(shards):,} samples of {folder} in {out}, {size:,} bytes")
