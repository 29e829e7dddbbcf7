"""genrep-evaluate: from a checkpoint and real images to numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrep.evaluate.audit_command import views
from genrep.evaluate.cli import (
    CHECKPOINT,
    DATA,
    DEVICE,
    ENCODER,
    QUIET,
    RESULT,
    THREADS,
    Numbers,
    check_writable,
    computing,
    dtype_on,
    result_place,
    unusual,
)
from genrep.evaluate.detect_command import detect
from genrep.evaluate.fidelity_command import fidelity
from genrep.evaluate.svm_command import svm
from genrep.shards.cli import Group, faults_in_one_line, interruptible

if TYPE_CHECKING:
    from genrep.evaluate.draws import Labels


class LabelsType(click.ParamType):
    """``1,10,1%,all`` -> (1, 10, "1%", None)."""

    name = "N,N%,all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple["Labels", ...]:
        return tuple(dict.fromkeys(self._one(word.strip(), param, ctx) for word in value.split(",")))

    def _one(self, word: str, param: click.Parameter | None, ctx: click.Context | None) -> "Labels":
        if word == "all":
            return None
        if re.fullmatch(r"[1-9]\d*", word):
            return int(word)
        if re.fullmatch(r"\d+(\.\d+)?%", word) and 0 < float(word[:-1]) < 100:
            return word
        self.fail(f"{word!r} is no number of labels, no share such as 10% and not 'all'", param, ctx)


OPTIONS = [
    DATA,
    click.option(
        "--labels-per-class",
        type=LabelsType(),
        default="all",
        show_default=True,
        help="Labels to fit on: N of each class (mean of 50 draws), a share such as 1% (5 draws), or all; several, "
        "with commas, give a result each.",
    ),
    click.option(
        "--shift",
        type=click.Choice(["none", "affine"]),
        default="none",
        show_default=True,
        help="affine: all images, of fit and test, under random rotation, scale, shift and flip.",
    ),
    RESULT,
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the label draws."),
    click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder for features and floors; share it between runs.  [default: evaluation/cache of the run]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        help="What networks compute in, by mixed precision.  [default: float16 on a GPU, else float32]",
    ),
    DEVICE,
    THREADS,
    QUIET,
]


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group(cls=Group)
def main() -> None:
    """Measure a frozen encoder on real images, beside floors that learned nothing.

    \b
    Examples:
      genrep-evaluate linear --checkpoint runs/gauss --data fashion-mnist
      genrep-evaluate linear --checkpoint runs/gauss --data fashion-mnist --labels-per-class 10 --shift affine
      genrep-evaluate knn --checkpoint runs/gauss --data imagefolder:PATH
    """


main.add_command(fidelity)
main.add_command(views)
main.add_command(svm)
main.add_command(detect)


@main.command()
@ENCODER
@click.option(
    "--grid",
    type=click.Choice(["narrow", "wide"]),
    default="narrow",
    show_default=True,
    help="narrow: 5 weight decays, standardised features.  wide: 14 x 3 normalisations x poolings of the last map.",
)
@click.option(
    "--protocol",
    type=click.Choice(["regression", "genrep"]),
    default="regression",
    show_default=True,
    help="genrep: the paper's own, SGD on random crops; last epoch, and best epoch on the test images beside it.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of --protocol genrep.  [default: 100]")
@click.option(
    "--learning-rates",
    type=Numbers(float),
    help="Of --protocol genrep, all trained side by side.  [default: 0.06,0.3,1]",
)
@click.option("--probe-seeds", type=click.IntRange(min=1), help="Of --protocol genrep, layers a rate.  [default: 3]")
@_options
def linear(
    *,
    grid: str,
    protocol: str,
    epochs: int | None,
    learning_rates: tuple[float, ...] | None,
    probe_seeds: int | None,
    **options: Any,
) -> None:
    """Linear probe: logistic regression on frozen features.

    Its settings are chosen on held-out training images; the test images are read once. It is a convex problem: no seed
    of a probe plays a part in it, but for the draws of few labels, of which it takes 50.

    \b
    Examples:
      genrep-evaluate linear --checkpoint runs/gauss --data fashion-mnist --labels-per-class 10 --out result.json
      genrep-evaluate linear --checkpoint runs/gauss --labels-per-class 1,10,100,1%,10%,all --grid wide
      genrep-evaluate linear --checkpoint runs/gauss --protocol genrep
    """
    given = {"epochs": epochs, "learning_rates": learning_rates, "num_seeds": probe_seeds}
    settings = {name: value for name, value in given.items() if value is not None}
    if protocol == "genrep":
        if (options["labels_per_class"], options["shift"], grid) != ((None,), "none", "narrow"):
            raise click.UsageError("--protocol genrep has no --labels-per-class, --shift or --grid: leave them out")
        _measure_by_protocol(settings, **options)
    elif settings:
        raise click.UsageError("--epochs, --learning-rates and --probe-seeds belong to --protocol genrep")
    else:
        _measure("linear", probe_settings={"grid": grid}, **options)


@main.command()
@click.option("--checkpoint", **CHECKPOINT)
@click.option(
    "--follow",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="In place of --checkpoint: measure every checkpoint of a run while it trains, on held-out training images.",
)
@_options
def knn(*, checkpoint: Path | None, follow: Path | None, **options: Any) -> None:
    """20 nearest neighbours by cosine of the features, voting with exp(cosine / 0.07).

    With --follow the numbers go to evaluation/follow-*.jsonl of the run, a line a checkpoint, until the run is
    finished. They serve choices, so the test images have no part in them.

    \b
    Examples:
      genrep-evaluate knn --checkpoint runs/gauss --data fashion-mnist --out result.json
      genrep-evaluate knn --follow runs/gauss
    """
    if follow and not checkpoint:
        _follow(follow, **options)
    elif checkpoint and not follow:
        _measure("knn", checkpoint=checkpoint, **options)
    else:
        raise click.UsageError("name either a --checkpoint to measure or a run to --follow")


def _measure(
    measure: str,
    *,
    checkpoint: Path,
    data_name: str,
    labels_per_class: tuple["Labels", ...],
    shift: Any,
    out: Path | None,
    seed: int,
    cache: Path | None,
    dtype: str | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
    probe_settings: dict[str, Any] | None = None,
) -> None:
    settings = probe_settings or {}
    with interruptible(), faults_in_one_line():
        from genrep.evaluate.data import open_data
        from genrep.evaluate.evaluation import PROBES, evaluate
        from genrep.evaluate.result import write_result
        from genrep.evaluate.table import curve, table

        special = [value for value in settings.values() if value != "narrow"]
        outs = [
            _one_of(out, labels)
            if out and len(labels_per_class) > 1
            else out
            or _named(
                "-".join([measure, *special]), checkpoint, data_name, labels_per_class=labels, shift=shift, seed=seed
            )
            for labels in labels_per_class
        ]
        for path in outs:
            check_writable(path)
        with computing(device, threads=threads, quiet=quiet) as how:
            results = evaluate(
                checkpoint,
                open_data(data_name),
                [PROBES[measure](labels, **settings) for labels in labels_per_class],
                shift=shift,
                seed=seed,
                cache=cache,
                dtype=dtype_on(how["device"], dtype),
                **how,
            )
        for result, path in zip(results, outs, strict=True):
            write_result(result, path)
    if not quiet:
        for result, path in zip(results, outs, strict=True):
            click.echo(f"{table(result)}\nwritten to {path}")
        if len(results) > 1:
            click.echo(f"\n{curve(results)}")


def _measure_by_protocol(
    settings: dict[str, Any],
    *,
    checkpoint: Path,
    data_name: str,
    out: Path | None,
    seed: int,
    cache: Path | None,
    dtype: str | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
    **unused: Any,
) -> None:
    with interruptible(), faults_in_one_line():
        from genrep.evaluate.data import open_data
        from genrep.evaluate.protocol import Protocol, evaluate_by_protocol
        from genrep.evaluate.result import write_result
        from genrep.evaluate.table import protocol_table

        out = out or _named("linear-genrep", checkpoint, data_name, labels_per_class=None, shift="none", seed=seed)
        check_writable(out)
        with computing(device, threads=threads, quiet=quiet) as how:
            result = evaluate_by_protocol(
                checkpoint,
                open_data(data_name),
                Protocol(**settings),
                seed=seed,
                cache=cache,
                dtype=dtype_on(how["device"], dtype),
                **how,
            )
        write_result(result, out)
    if not quiet:
        click.echo(f"{protocol_table(result)}\nwritten to {out}")


def _follow(
    run: Path,
    *,
    data_name: str,
    labels_per_class: tuple["Labels", ...],
    shift: Any,
    out: Path | None,
    seed: int,
    cache: Path | None,
    dtype: str | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    if cache is not None or dtype not in (None, "float32"):
        raise click.UsageError("--follow computes in float32 and keeps no features: leave out --cache and --dtype")
    if len(labels_per_class) > 1:
        raise click.UsageError("--follow measures with one number of labels: name one --labels-per-class")
    with interruptible(), faults_in_one_line():
        from genrep.evaluate.data import open_data
        from genrep.evaluate.evaluation import check_labels
        from genrep.evaluate.follow import follow
        from genrep.evaluate.knn import KnnProbe
        from genrep.train.checkpoint import checkpoints

        settings = {"labels_per_class": labels_per_class[0], "shift": shift, "seed": seed}
        named = _named("follow-knn", run, data_name, **settings)
        out = out or run / "evaluation" / f"{named.stem}.jsonl"  # the run may not be there yet
        check_writable(out)
        data, probe = open_data(data_name), KnnProbe(labels_per_class[0])
        check_labels([probe], data)
        if not checkpoints(run) and not quiet:
            click.echo(f"{run} has no checkpoint yet: waiting for it", err=True)
        with computing(device, threads=threads, quiet=quiet) as how:
            lines = follow(
                run,
                data,
                probe,
                out,
                shift=shift,
                seed=seed,
                **how,
            )
            for line in lines:
                if not quiet:
                    low, high = line["interval"]
                    click.echo(
                        f"step {line['step']}: top-1 {line['top1']:.1%} ({low:.1%} to {high:.1%}) of "
                        f"{len(data.held_out.labels):,} held-out images"
                    )
    if not quiet:
        click.echo(f"{run} is finished; written to {out}")


def _named(
    measure: str, checkpoint: Path, data_name: str, *, labels_per_class: "Labels", shift: str, seed: int
) -> Path:
    """Where a result goes unless the user says."""
    how = [*_labels_word(labels_per_class), *unusual({"": (shift, "none"), "seed": (seed, 0)})]
    return result_place(measure, checkpoint, data_name, how)


def _labels_word(labels: "Labels") -> list[str]:
    return [] if labels is None else [f"{str(labels).replace('%', '-percent')}-labels"]


def _one_of(out: Path, labels: "Labels") -> Path:
    """Of several results that are to lie at ``out``: ``result.json`` for all labels, ``result-10-labels.json``."""
    return out.with_name("-".join([out.stem, *_labels_word(labels)]) + out.suffix)


if __name__ == "__main__":
    main()
