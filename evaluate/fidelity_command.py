"""genrep-evaluate fidelity: how near the images of a set are to real ones."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from genrep.evaluate.cli import (
    DATA,
    DEVICE,
    FEATURES_OF,
    QUIET,
    SEED,
    THREADS,
    check_writable,
    present_device,
    stages_bar,
    use_threads,
)
from genrep.shards.cli import LOCATION, Command, faults_in_one_line, interruptible
from genrep.shards.errors import DataError
from genrep.shards.location import Location


@click.command(cls=Command)
@click.option("--shards", type=LOCATION, required=True, help="The set.")
@click.option("--image", default="anchor", show_default=True, help="Which image of a sample: anchor, view1, view2, ...")
@FEATURES_OF
@click.option(
    "--extractor",
    help="In place of --checkpoint: inception-v3-compat (FID and KID as in papers) or vgg16 of torch-fidelity, or "
    "module:CLASS, a FeatureExtractorBase of torch-fidelity; its code is run.",
)
@click.option("--extractor-weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights of --extractor.")
@DATA
@click.option(
    "--part",
    type=click.Choice(["fit", "held-out", "test"]),
    default="fit",
    show_default=True,
    help="Of --data. Choices made by a number on test images spend them.",
)
@click.option("--real", type=LOCATION, help="In place of --data: a set, as of genrep-shards import.")
@click.option(
    "--samples",
    "most",
    type=click.IntRange(min=4),
    default=10_000,
    show_default=True,
    metavar="N",
    help="At most so many.",
)
@SEED
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the JSON goes.  [default: fidelity-SET.json, in evaluation/ of the run if there is one]",
)
@DEVICE
@THREADS
@QUIET
def fidelity(
    *,
    shards: Location,
    image: str,
    checkpoint: Path | None,
    extractor: str | None,
    extractor_weights: Path | None,
    data_name: str,
    part: str,
    real: Location | None,
    most: int,
    seed: int,
    out: Path | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Compare a set with real images: Frechet and kernel distance, precision and recall, class fidelity.

    Beside every number stands its floor: other real images against the same ones, as many. Distances are FID and KID
    in Inception's features alone, whose weights must lie on this machine; in all others they have no meaning outside
    of these features, and the table says so.

    \b
    Examples: in our own encoder's features; as in papers; against real images in shards
      genrep-evaluate fidelity --shards data/gauss --checkpoint runs/gauss
      genrep-evaluate fidelity --shards data/gauss --extractor inception-v3-compat --extractor-weights FILE
      genrep-evaluate fidelity --shards data/gauss --real data/real --image view1
    """
    if extractor and checkpoint:
        raise click.UsageError("--checkpoint and --extractor both say whose features to use: leave one out")
    if extractor_weights and not extractor:
        raise click.UsageError("--extractor-weights are those of an --extractor: name it")
    out = out or _named(shards, checkpoint, image)
    with interruptible(), faults_in_one_line():
        check_writable(out)
        from genrep.evaluate.data import open_data
        from genrep.evaluate.extractors import open_extractor
        from genrep.evaluate.fidelity import (
            fidelity_table,
            measure_fidelity,
            real_reference,
            set_reference,
            write_fidelity,
        )
        from genrep.evaluate.sources import part_of
        from genrep.shards.reader import ShardDataset

        use_threads(threads)
        device = present_device(device)
        dataset = ShardDataset(shards)
        if real is None:
            data = open_data(data_name)
            reference = real_reference(data, part_of(data, part), name=f"{part} part")
        else:
            reference = set_reference(_with_anchors(ShardDataset(real), real), str(real), seed=seed)
        looking = open_extractor(
            checkpoint=checkpoint,
            name=extractor,
            weights=extractor_weights,
            side=min(dataset.image_shape),
            device=device,
        )
        with stages_bar(quiet=quiet) as progress:
            result = measure_fidelity(
                dataset,
                str(shards),
                reference,
                looking,
                image=_image(image, dataset),
                most=most,
                seed=seed,
                device=device,
                progress=progress,
                command=shlex.join(["genrep-evaluate", *sys.argv[1:]]),
            )
        write_fidelity(result, out)
    if not quiet:
        click.echo(f"{fidelity_table(result)}\nwritten to {out}")


def _named(shards: Location, checkpoint: Path | None, image: str) -> Path:
    words = ["fidelity", re.sub(r"[^\w.-]+", "-", shards.name), *([image] if image != "anchor" else [])]
    name = f"{'-'.join(words)}.json"
    if checkpoint is None:
        return Path(name)
    from genrep.evaluate.evaluation import run_folder

    return run_folder(checkpoint) / "evaluation" / name


def _image(name: str, dataset: Any) -> int:
    """Its number within a sample; the set must have it."""
    names = [member.rpartition(".")[0] for member in dataset.member_names[: dataset.num_images]]
    if name not in names:
        raise DataError(f"{dataset.folder} has no image {name!r}: use --image {' or '.join(names)}")
    return names.index(name)


def _with_anchors(dataset: Any, where: Location) -> Any:
    if not dataset.has_anchors:
        raise DataError(f"{where} holds views that were added to another set: name a set with anchors for --real")
    return dataset
