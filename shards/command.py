"""genrep-shards: what one does with a set that is there, and real images made into one."""

from pathlib import Path

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
from genrep.shards.export_command import export
from genrep.shards.location import Location
from genrep.shards.share_command import card, push


@click.group(cls=Group)
def main() -> None:
    """Look at a set of shards, check it, draw it, or import real images as one.

    \b
    Example: what is in a set, and whether it is whole
      genrep-shards info data
      genrep-shards verify data
    """


main.add_command(export)
main.add_command(card)
main.add_command(push)


@main.command()
@folder_argument
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every shard and class.")
@quiet_option
def info(folder: Location, *, as_json: bool, quiet: bool) -> None:
    """Recipe, totals, shards, class balance, and the bytes of generator, recipe and set.

    With --quiet only the exit status tells whether DIR holds a finished set.

    \b
    Example:
      genrep-shards info data
    """
    import json

    from genrep.shards.info import as_text, describe

    with faults_in_one_line():
        told = describe(folder)
    if as_json:
        click.echo(json.dumps(told, indent=2))
    elif not quiet:
        click.echo(as_text(told))


@main.command()
@folder_argument
@click.option("--deep", is_flag=True, help="Also compare and decode every member.")
@quiet_option
def verify(folder: Location, *, deep: bool, quiet: bool) -> None:
    """Compare shards with recipe, manifest and tables; every fault is named, and then the exit status is 1.

    \b
    Example: hashes and structure; then every image, latent and label as well
      genrep-shards verify data
      genrep-shards verify data --deep
    """
    from genrep.shards.info import printable
    from genrep.shards.layout import layout_of
    from genrep.shards.manifest import read_recipe
    from genrep.shards.reader import check_finished
    from genrep.shards.verify import verify as find_faults

    with faults_in_one_line():
        check_finished(folder)
        num_samples = layout_of(read_recipe(folder)).num_samples
        with progress_bar(" samples", quiet=quiet) as show:
            done = 0

            def advance(samples: int) -> None:
                nonlocal done
                done += samples
                show(done, num_samples)

            faults = find_faults(folder, deep=deep, progress=advance)
    for fault in faults:
        click.echo(printable(str(fault)))
    if faults:
        raise click.ClickException(
            f"{folder} is damaged ({len(faults)} found): get these files again, or remove the shards with their tables "
            "and run the command that made the set"
        )
    if not quiet:
        click.echo(f"{folder} is whole: {num_samples:,} samples{' and every member' if deep else ''} checked")


@main.command()
@folder_argument
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to draw.  [default: preview.png, or preview.html]",
)
@click.option("--rows", default=10, show_default=True, type=click.IntRange(1, 100), help="Samples to draw, at most.")
@click.option("--panels", is_flag=True, help="The six panels of the paper's figure; the set needs views gauss,steer.")
@click.option("--html", is_flag=True, help="One page that needs no other file, with distances, classes, recipe.")
@quiet_option
def preview(folder: Location, *, out: Path | None, rows: int, panels: bool, html: bool, quiet: bool) -> None:
    """Draw samples of a set as a contact sheet: a row a sample, the anchor and then its views.

    \b
    Example: the views of a set; a page of it; the figure of the paper
      genrep-shards preview data --out sheet.png
      genrep-shards preview data --html
      genrep-generate --n 100 --views gauss,steer,independent --out kinds
      genrep-shards preview kinds --panels --out panels.png
    """
    from genrep.shards import atomic
    from genrep.shards.page import preview_page
    from genrep.shards.preview import contact_sheet
    from genrep.shards.reader import ShardDataset

    out = out or Path("preview.html" if html else "preview.png")
    drawn = preview_page if html else contact_sheet
    with faults_in_one_line():
        dataset = ShardDataset(folder)
        atomic.write(out, drawn(dataset, num_rows=rows, panels=panels))
    if not quiet:
        click.echo(f"{min(rows, len(dataset))} of {len(dataset):,} samples of {folder} drawn in {out}")


@main.command("import")
@click.argument("source", metavar="fashion-mnist|DIR")
@click.option("--out", required=True, metavar="DIR", type=LOCATION, help="Folder or URL of the new set.")
@click.option("--n", "num_images", type=click.IntRange(1, 10**9), help="Only the first so many images.  [default: all]")
@click.option(
    "--resize", type=click.IntRange(1, 1 << 13), help="Short side resized to so many pixels, then the centre."
)
@click.option(
    "--format", "image_format", type=click.Choice(["png", "jpg", "webp"]), help="[default: png up to 64 px, jpg above]"
)
@click.option("--quality", type=click.IntRange(1, 100), help="Of jpg and webp.  [default: 95 for jpg, lossless webp]")
@click.option("--shard-size", type=click.IntRange(min=1), help="Samples a shard.  [default: 256-4096 by image size]")
@quiet_option
def import_(
    source: str,
    *,
    out: Location,
    num_images: int | None,
    resize: int | None,
    image_format: str | None,
    quality: int | None,
    shard_size: int | None,
    quiet: bool,
) -> None:
    """Make shards of real images: Fashion-MNIST, or a folder with a sub-folder for every class.

    Of Fashion-MNIST the 54,000 images to learn from are taken. The label of a folder's image is the place of its
    class among the sorted names; its images come in one fixed order that mixes the classes.

    \b
    Example: a baseline on real images
      genrep-shards import fashion-mnist --out data/real
      genrep-shards import photos/train --resize 128 --out data/photos
    """
    import os

    from genrep.shards.importer import fashion_mnist_source, folder_source, import_images

    with interruptible(out), faults_in_one_line():
        if source == "fashion-mnist":
            images = fashion_mnist_source(num_images=num_images, resize=resize)
        else:
            with progress_bar(" headers", quiet=quiet) as show:
                images = folder_source(
                    Path(source),
                    num_images=num_images,
                    resize=resize,
                    workers=os.cpu_count() or 1,
                    progress=show,
                )
        with progress_bar(" images", quiet=quiet) as show:
            manifest = import_images(
                images, out, image_format=image_format, quality=quality, shard_size=shard_size, progress=show
            )
    if not quiet:
        click.echo(f"{manifest.num_samples:,} images in {len(manifest.shards)} shards in {out}")


if __name__ == "__main__":
    main()
