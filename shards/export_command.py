"""genrep-shards export: a set in the layout of another reader."""

import signal
from pathlib import Path
from typing import Any

import click

from genrep.shards.cli import (
    LOCATION,
    Group,
    faults_in_one_line,
    folder_argument,
    interruptible,
    progress_bar,
    quiet_option,
)
from genrep.shards.location import Location

out_option = click.option("--out", required=True, metavar="DIR", type=LOCATION, help="Folder to fill.")


@click.group(cls=Group)
def export() -> None:
    """Write a set in the layout of another reader; the set stays as it is, and the same command continues.

    \b
    Example: for MosaicML's streaming; the anchors alone, for timm
      genrep-shards export mds data --out data-mds
      genrep-shards export wds data --image anchor --out data-wds
    """


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
def ffcv(folder: Location, *, out: Path | None, images: Any, quiet: bool) -> None:
    """One file for FFCV's loader and for genrep-train --loader ffcv.

    Its fields are anchor, view1 ... viewK, latents, label and index. FILE.json beside it holds the sha256 of the
    set's manifest.

    \b
    Example:
      genrep-shards export ffcv data --out data.beton
      genrep-train --shards data --loader ffcv
    """
    from genrep.shards.export import open_with_anchors
    from genrep.shards.ffcv import beside, export_ffcv

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        with faults_in_one_line():
            shards = open_with_anchors(folder)
            out = out or beside(folder)
            with progress_bar(" samples", quiet=quiet) as show:
                size = export_ffcv(shards, out, images=images, progress=show)
    except KeyboardInterrupt:
        raise click.ClickException("interrupted, nothing was written; run the same command to start again") from None
    if not quiet:
        click.echo(f"{len(shards):,} samples of {folder} in {out}, {size:,} bytes")


@export.command()
@folder_argument
@out_option
@quiet_option
def folder(folder: Location, *, out: Location, quiet: bool) -> None:
    """Class folders of PNG files, with the names of the paper's authors.

    OUT/train/CLASS holds seed0000_sample00000_anchor.png, ..._1.0_1.png for the first view, and z_dataset.pkl.
    torchvision's ImageFolder reads OUT/train too.

    \b
    Example:
      genrep-shards export folder data --out folders
    """
    from genrep.shards.class_folders import check_local, export_folder
    from genrep.shards.export import open_with_anchors

    with interruptible(out), faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        num_images = export_folder(open_with_anchors(folder), check_local(out), progress=show)
    if not quiet:
        click.echo(f"{num_images:,} images of {folder} in {out}/train")


@export.command()
@folder_argument
@out_option
@quiet_option
def mds(folder: Location, *, out: Location, quiet: bool) -> None:
    """MDS shards, for streaming.StreamingDataset of MosaicML: images, latents, label, index, meta.

    \b
    Example:
      genrep-shards export mds data --out data-mds
    """
    from genrep.shards.export import open_with_anchors
    from genrep.shards.mds import export_mds

    with interruptible(out), faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        num_files = export_mds(open_with_anchors(folder), out, progress=show)
    if not quiet:
        click.echo(f"{folder} as {num_files:,} MDS files in {out}")


@export.command()
@folder_argument
@click.option("--image", default="anchor", show_default=True, metavar="anchor|view1|...", help="Which of the images.")
@out_option
@quiet_option
def wds(folder: Location, *, image: str, out: Location, quiet: bool) -> None:
    """Tars with one image and one label a sample (png and cls), for readers of classification sets such as timm's.

    \b
    Example: and then, with timm
      genrep-shards export wds data --image anchor --out data-wds
      timm.data.create_dataset("wds/anchors", root="data-wds", split="train", is_training=True)
    """
    from genrep.shards.export import open_with_anchors
    from genrep.shards.plain_wds import export_wds

    with interruptible(out), faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        num_tars = export_wds(open_with_anchors(folder), out, image=image, progress=show)
    if not quiet:
        click.echo(f"{image} and label of {folder} as {num_tars:,} tars in {out}")
