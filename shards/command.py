"""genrep-shards: what one does with a set that is there, and real images made into one."""

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
    subsampling_option,
)
from genrep.shards.errors import printable
from genrep.shards.export_command import export
from genrep.shards.location import Location
from genrep.shards.rebuild_command import (
    add_views,
    chosen_generator,
    drawn_seed,
    extend,
    generator_options,
    prove_options,
    rebuild,
    repair,
)
from genrep.shards.share_command import card, push


@click.group(cls=Group)
def main() -> None:
    """Look at a set of shards, check it, draw it, or import real images as one.

    \b
    Example: what is in a set, and whether it is whole
      genrep-shards info data
      genrep-shards verify data
    """


for command in (export, card, push, repair, extend, add_views):
    main.add_command(command)


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
@prove_options(
    help="Compare all with what the recipe gives, and a random part of the images with what the generator renders."
)
@generator_options
@quiet_option
def verify(
    folder: Location, *, deep: bool, share: float | None, seed: int | None, quiet: bool, **generator: Any
) -> None:
    """Compare shards with recipe, manifest and tables; every fault is named, and then the exit status is 1.

    With --prove labels, latents, strengths and metadata are drawn again from the recipe, and images rendered again by
    the generator that it names: in the environment of the set every byte must be equal, in another one every pixel up
    to rounding. DIR may be a set or the file of a subset.

    \b
    Example: hashes and structure; then every image, latent and label as well; then against the generator
      genrep-shards verify data
      genrep-shards verify data --deep
      genrep-shards verify data --prove 1%
    """
    from genrep.shards.layout import layout_of
    from genrep.shards.manifest import read_recipe
    from genrep.shards.reader import check_finished
    from genrep.shards.verify import shards_of
    from genrep.shards.verify import verify as find_faults

    proof = None
    with faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        root, wanted = shards_of(folder)
        check_finished(root)
        specs = layout_of(read_recipe(root)).shards
        num_samples = sum(spec.count for spec in specs if wanted is None or spec.name in wanted)
        if share is None:
            done = 0

            def advance(samples: int) -> None:
                nonlocal done
                done += samples
                show(done, num_samples)

            faults = find_faults(folder, deep=deep, progress=advance)
        else:
            proof = rebuild().prove(
                folder,
                share=share,
                seed=drawn_seed() if seed is None else seed,
                deep=deep,
                chosen=chosen_generator(**generator),
                progress=show,
            )
            faults = proof.faults
    for fault in faults:
        click.echo(str(fault))
    if faults:
        seeded = f"; rendered again from --seed {proof.seed}" if proof else ""
        raise click.ClickException(
            f"{folder} is damaged ({len(faults)} found{seeded}): get these files again, or mend them with "
            f"genrep-shards repair {root}"
        )
    if not quiet:
        click.echo(f"{folder} is whole: {num_samples:,} samples{' and every member' if deep else ''} checked")
    if not quiet and proof:
        click.echo(proof.told)


@main.command()
@folder_argument
@click.option("--quiet", is_flag=True, expose_value=False, help="No progress bar and no summary: there are none.")
def recipe(folder: Location) -> None:
    """Print the recipe of a set, from which genrep-generate makes the same set again.

    \b
    Example: a set sent as a few kilobytes
      genrep-shards recipe data > recipe.json
      genrep-generate --from-recipe recipe.json --out again
    """
    from genrep.shards.manifest import json_bytes, read_recipe

    with faults_in_one_line():
        content = json_bytes(read_recipe(folder))
    click.echo(content, nl=False)


@main.command()
@click.argument("first", metavar="DIR", type=LOCATION)
@click.argument("second", metavar="OTHER", type=LOCATION)
@quiet_option
def diff(first: Location, second: Location, *, quiet: bool) -> None:
    """Say in which respect two sets differ, and by how much; the exit status is 1 if a sample does.

    Compared are recipe, layout, and of the samples that both have labels, latents, metadata, pixels and encoding.

    \b
    Example: is a set that was made again the same?
      genrep-shards diff data again
    """
    from genrep.shards.diff import diff as compare

    with faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        found = compare(first, second, progress=show)
    if not quiet:
        for respect, told in found.lines().items():
            click.echo(f"{respect:<10}{printable(told)}")
    if found.respects:
        raise click.ClickException(f"{first} and {second} are {found.verdict}")
    if not quiet:
        click.echo(found.verdict)


@main.command()
@folder_argument
@click.option("--samples", required=True, help="Sample indices by number and range, joined by commas: 0-999,5000.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
@quiet_option
def subset(folder: Location, *, samples: str, out: Path, quiet: bool) -> None:
    """Name some samples of a set in a small file, which verify, genrep-train and export take in place of a set.

    It holds the path of DIR relative to it, the sha256 of its manifest, and the ranges; no sample is copied.

    \b
    Example: training on the first thousand samples
      genrep-shards subset data --samples 0-999 --out first.json
      genrep-train --shards first.json
    """
    from genrep.shards import atomic
    from genrep.shards.subset import parse_ranges, subset_bytes

    with faults_in_one_line():
        ranges = parse_ranges(samples)
        atomic.write(out, subset_bytes(folder, ranges, path=out))
    if not quiet:
        click.echo(f"{sum(map(len, ranges)):,} samples of {folder} in {out}")


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
@subsampling_option
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
    subsampling: str,
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
                images,
                out,
                image_format=image_format,
                quality=quality,
                subsampling=subsampling,
                shard_size=shard_size,
                progress=show,
            )
    if not quiet:
        click.echo(f"{manifest.num_samples:,} images in {len(manifest.shards)} shards in {out}")


if __name__ == "__main__":
    main()
