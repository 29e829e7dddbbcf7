"""genrep-evaluate svm: linear support vector machines on frozen features, as on PASCAL VOC 2007 and Caltech-101."""

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
    dtype_on,
    result_place,
    unusual,
)
from genrep.shards.cli import Command, faults_in_one_line, interruptible

SPLITS, DIFFICULT = "trainval,test", "ignore"


@click.command(cls=Command)
@ENCODER
@click.option(
    "--data",
    "data_name",
    required=True,
    help="Several classes an image: voc:ROOT. One: fashion-mnist, imagefolder:PATH or torchvision:Caltech101:ROOT.",
)
@click.option(
    "--splits",
    default=SPLITS,
    show_default=True,
    metavar="A,B",
    help="Of voc: fit on A, report on B. The paper's authors: train,val.",
)
@click.option(
    "--difficult",
    type=click.Choice(["ignore", "positive"]),
    default=DIFFICULT,
    show_default=True,
    help="Of voc: an image whose only objects of a class are difficult takes no part in it, as VOC says, or holds it, "
    "as for the paper's authors.",
)
@click.option(
    "--crop",
    type=click.IntRange(min=8),
    metavar="PX",
    help="Side of the centre crop, the short side before it in proportion; the authors: 224.  [default: as trained]",
)
@SEED
@RESULT
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for features and floors; share it between runs.  [default: evaluation/cache of the run]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="What networks compute in, by mixed precision.  [default: float16 on a GPU, else float32]",
)
@DEVICE
@THREADS
@QUIET
def svm(
    *,
    checkpoint: Path,
    data_name: str,
    splits: str,
    difficult: Any,
    crop: int | None,
    seed: int,
    out: Path | None,
    cache: Path | None,
    dtype: str | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Linear SVM for each class on frozen features of unit length.

    Where images hold several classes: mean average precision, each class with its own cost, chosen by three folds of
    the split to fit on. Where they hold one: mean per-class accuracy and top-1, the cost chosen on held-out training
    images. The images to report on are read once.

    \b
    Examples: VOC 2007 as VOC says, and as the paper's authors did it
      genrep-evaluate svm --checkpoint runs/gauss --data voc:data
      genrep-evaluate svm --checkpoint runs/gauss --data voc:data --splits train,val --difficult positive --crop 224
    """
    kind, _, place = data_name.partition(":")
    of_voc = kind == "voc"
    if of_voc and not place:
        raise click.UsageError("--data voc:ROOT needs a ROOT: the folder that holds VOC2007/")
    if not of_voc and (splits, difficult) != (SPLITS, DIFFICULT):
        raise click.UsageError("--splits and --difficult belong to --data voc:ROOT: leave them out")
    with interruptible(), faults_in_one_line():
        from genrep.evaluate.data import open_data
        from genrep.evaluate.svm_evaluation import evaluate_svm, open_multi_label
        from genrep.evaluate.transfer import transfer_table, write_transfer

        differing: dict[str, tuple[object, object]] = {
            "": (splits, SPLITS),
            "difficult-": (difficult, DIFFICULT),
            "crop": (crop, None),
            "seed": (seed, 0),
        }
        out = out or result_place("svm", checkpoint, data_name, unusual(differing))
        check_writable(out)
        with computing(device, threads=threads, quiet=quiet) as how:
            result = evaluate_svm(
                checkpoint,
                open_multi_label(Path(place).expanduser(), splits=splits, difficult=difficult)
                if of_voc
                else open_data(data_name),
                crop=crop,
                seed=seed,
                cache=cache,
                dtype=dtype_on(how["device"], dtype),
                **how,
            )
        write_transfer(result, out)
    if not quiet:
        click.echo(f"{transfer_table(result)}\nwritten to {out}")
