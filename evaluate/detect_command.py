"""genrep-evaluate detect: a detector fine-tuned from a backbone, as on PASCAL VOC."""

from pathlib import Path
from typing import Any

import click

from genrep.evaluate.cli import (
    DEVICE,
    ENCODER,
    QUIET,
    RESULT,
    SEED,
    THREADS,
    check_writable,
    computing,
    result_place,
    unusual,
)
from genrep.shards.cli import Command, faults_in_one_line, interruptible

SPLITS = "trainval,test"


@click.command(cls=Command)
@ENCODER
@click.option("--data", "data_name", required=True, help="voc:ROOT: images and boxes in VOC's layout.")
@click.option(
    "--splits",
    default=SPLITS,
    show_default=True,
    metavar="A,B",
    help="Train on A, report on B. The paper's authors: 2007/trainval+2012/trainval,test.",
)
@click.option("--steps", type=click.IntRange(min=1), default=24_000, show_default=True, help="Updates.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Images an update.")
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=0.02,
    show_default=True,
    help="Learning rate after the warm-up; a tenth from 3/4 of the updates on, a hundredth from 11/12 on.",
)
@click.option(
    "--min-size",
    type=click.IntRange(min=32),
    default=800,
    show_default=True,
    metavar="PX",
    help="Short side of test images; in training, drawn from 60 to 100 % of it.",
)
@click.option(
    "--batch-norm",
    type=click.Choice(["train", "frozen"]),
    default="train",
    show_default=True,
    help="Of the backbone: statistics of the batch, as for the paper's authors, or its stored ones.",
)
@click.option("--floor/--no-floor", default=True, show_default=True, help="The same from untrained weights, beside it.")
@SEED
@RESULT
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the floor; share it between runs.  [default: evaluation/cache of the run]",
)
@DEVICE
@THREADS
@QUIET
def detect(
    *,
    checkpoint: Path,
    data_name: str,
    splits: str,
    floor: bool,
    out: Path | None,
    cache: Path | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Fine-tune a Faster R-CNN (C4) from a backbone, and count its average precision.

    AP50, AP (0.50 to 0.95) and AP75 as COCO counts them, and AP50 at VOC 2007's eleven points. The images to report
    on are read once, after the last update. An interrupted training begins anew.

    \b
    Examples: the paper's schedule, for a GPU; a small one
      genrep-evaluate detect --checkpoint runs/gauss --data voc:data --splits 2007/trainval+2012/trainval,test
      genrep-evaluate detect --checkpoint runs/gauss --data voc:data --steps 500 --batch-size 4 --min-size 128
    """
    kind, _, place = data_name.partition(":")
    if kind != "voc" or not place:
        raise click.UsageError(f"--data {data_name!r} has no boxes: use voc:ROOT, the folder that holds VOC2007/")
    with interruptible(), faults_in_one_line():
        from genrep.evaluate.detect import DetectSettings, evaluate_detect
        from genrep.evaluate.transfer import transfer_table, write_transfer

        differing: dict[str, tuple[object, object]] = {
            "": (splits, SPLITS),
            **{name.replace("_", "-"): (settings[name], usual) for name, usual in vars(DetectSettings()).items()},
        }
        out = out or result_place("detect", checkpoint, data_name, unusual(differing))
        check_writable(out)
        with computing(device, threads=threads, quiet=quiet) as how:
            result = evaluate_detect(
                checkpoint,
                Path(place).expanduser(),
                DetectSettings(**settings),
                splits=splits,
                floor=floor,
                cache=cache,
                **how,
            )
        write_transfer(result, out)
    if not quiet:
        click.echo(f"{transfer_table(result)}\nwritten to {out}")
