"""genrep-evaluate views: an audit of views before an encoder is trained on them."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from genrep.evaluate.cli import (
    DEVICE,
    FEATURES_OF,
    SEED,
    THREADS,
    Numbers,
    check_writable,
    present_device,
    stages_bar,
    use_threads,
)
from genrep.shards.cli import LOCATION, Command, faults_in_one_line, interruptible, key_values
from genrep.shards.location import Location

PAGE, RECORD, SETS = "audit.html", "audit.json", "sets"


SHARE = click.FloatRange(0, 1)


@click.command(cls=Command)
@click.option(
    "--shards", "folders", type=LOCATION, multiple=True, help="A set; may be repeated, as for several sigmas."
)
@click.option("--generator", help="In place of --shards: generate small sets of its views, as genrep-generate would.")
@click.option("--views", "kinds", help="Of --generator, as for genrep-generate.  [default: gauss]")
@click.option("--std", "stds", type=Numbers(float), help="A set for each of these sigmas.  [default: the generator's]")
@click.option("--weights", type=click.Path(path_type=Path), help="Of --generator.")
@click.option("--generator-arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Of --generator.")
@FEATURES_OF
@click.option(
    "--data", "data_name", default="fashion-mnist", show_default=True, help="fashion-mnist, imagefolder:PATH, or none."
)
@click.option(
    "--samples", "most", type=click.IntRange(min=10), default=1000, show_default=True, metavar="N", help="Of each set."
)
@click.option(
    "--real-images",
    "most_real",
    type=click.IntRange(min=10),
    default=60_000,
    show_default=True,
    metavar="N",
    help="Training images among which copies are looked for.",
)
@SEED
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="audit",
    show_default=True,
    help="audit.html, audit.json and generated sets.",
)
@click.option(
    "--min-survival", type=SHARE, default=0.5, show_default=True, help="Of views whose class is the anchor's."
)
@click.option(
    "--min-move",
    type=click.FloatRange(min=0),
    default=0.05,
    show_default=True,
    help="Of views in features, in distances of unrelated anchors.",
)
@click.option(
    "--max-duplicates",
    type=SHARE,
    default=0.01,
    show_default=True,
    help="Share of anchors with a near duplicate, above that of real images.",
)
@click.option(
    "--max-copies",
    type=SHARE,
    default=0.01,
    show_default=True,
    help="Share of anchors near a training image, above that of held-out ones.",
)
@click.option(
    "--min-class", type=SHARE, default=0.2, show_default=True, help="Of every class, in its shares among real images."
)
@DEVICE
@THREADS
@click.option("--quiet", is_flag=True, help="No summary; thresholds that are crossed are told.")
@click.pass_context
def views(
    ctx: click.Context,
    *,
    folders: tuple[Location, ...],
    generator: str | None,
    kinds: str | None,
    stds: tuple[float, ...] | None,
    weights: Path | None,
    arguments: tuple[str, ...],
    checkpoint: Path | None,
    data_name: str,
    most: int,
    most_real: int,
    seed: int,
    out: Path,
    device: str | None,
    threads: int | None,
    quiet: bool,
    **thresholds: float,
) -> None:
    """Audit views before an encoder is trained on them: a page, audit.json, and an exit status.

    How far views move, in latents and in features; how often the class survives, by a probe of real images; near
    duplicates among anchors; anchors that copy training images; class balance. Test images are not read. The status is
    1 if a threshold is crossed, with a line for each.

    \b
    Examples: a sweep over sigma; sets that are there; in the features of an encoder
      genrep-evaluate views --generator fashion-null --std 0.1,0.2,0.5,1 --out audits/null
      genrep-evaluate views --shards data/gauss --out audits/gauss
      genrep-evaluate views --shards data/gauss --checkpoint runs/gauss --min-survival 0.7
    """
    if bool(folders) == bool(generator):
        raise click.UsageError("name either sets by --shards or a --generator")
    if not generator and (kinds or stds or weights or arguments):
        raise click.UsageError("--views, --std, --weights and --generator-arg are of a --generator: name one")
    pairs = key_values(arguments)
    with interruptible(), faults_in_one_line():
        record, page = out / RECORD, out / PAGE
        check_writable(record)
        from genrep.evaluate.audit import audit
        from genrep.evaluate.audit_page import audit_page, audit_table
        from genrep.evaluate.audit_sets import generate_sets, named
        from genrep.evaluate.audit_thresholds import Thresholds, crossed
        from genrep.evaluate.data import open_data
        from genrep.evaluate.extractors import open_extractor
        from genrep.evaluate.fidelity import write_json
        from genrep.shards import atomic
        from genrep.shards.reader import ShardDataset

        use_threads(threads)
        device = present_device(device)
        data = None if data_name == "none" else open_data(data_name)
        with stages_bar(quiet=quiet) as progress:
            found: dict[str, Any] = named(folders)
            if generator:
                found = generate_sets(
                    generator,
                    stds or (None,),
                    out / SETS,
                    views=kinds or "gauss",
                    num_samples=most,
                    seed=seed,
                    weights=weights,
                    arguments=pairs,
                    device=device,
                    progress=lambda done, total: progress("samples", done, total),
                )
            sets = {name: ShardDataset(folder) for name, folder in found.items()}
            side = min(next(iter(sets.values())).image_shape)
            looking = open_extractor(checkpoint=checkpoint, side=side, device=device)
            result, evidence = audit(
                sets, data, looking, most=most, most_real=most_real, seed=seed, device=device, progress=progress
            )
        limits = Thresholds(**thresholds)
        lines = crossed(result, limits)
        typed = shlex.join(["genrep-evaluate", *sys.argv[1:]])
        content = audit_page(result, evidence, sets, data, thresholds=limits, crossed=lines, command=typed)
        write_json(
            {
                **result.to_json(),
                "extractor": looking.encoder.identity,
                "thresholds": thresholds,
                "crossed": lines,
                "command": typed,
            },
            record,
        )
        atomic.write(page, content)
    if not quiet:
        click.echo(f"{audit_table(result)}\nwritten to {page} and {record}")
    for line in lines:
        click.echo(f"crossed: {line}", err=True)
    if lines:
        ctx.exit(1)
