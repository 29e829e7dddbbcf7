"""genrep-evaluate: from a checkpoint and real images to numbers."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrep.evaluate.fidelity_command import fidelity
from genrep.shards.cli import Group
from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from genrep.evaluate.features import Progress

CHECKPOINT: dict[str, Any] = {"type": click.Path(path_type=Path), "help": "Folder of a run, or a checkpoint in it."}
OPTIONS = [
    click.option(
        "--data", "data_name", default="fashion-mnist", show_default=True, help="fashion-mnist or imagefolder:PATH."
    ),
    click.option(
        "--labels-per-class",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use N labels a class: mean of 50 draws.  [default: all labels]",
    ),
    click.option(
        "--shift",
        type=click.Choice(["none", "affine"]),
        default="none",
        show_default=True,
        help="affine: all images, of fit and test, under random rotation, scale, shift and flip.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Where the result.json goes.  [default: in evaluation/ of the run, named after the measurement]",
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the label draws."),
    click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder for features and floors; share it between runs.  [default: evaluation/cache of the run]",
    ),
    click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda if there is one, else cpu]"),
    click.option(
        "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.  [default: the cores it may use]"
    ),
    click.option("--quiet", is_flag=True, help="Only errors."),
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


@main.command()
@click.option("--checkpoint", required=True, **CHECKPOINT)
@_options
def linear(**options: Any) -> None:
    """Linear probe: logistic regression on frozen features.

    Its weight decay is chosen on held-out training images; the test images are read once.

    \b
    Example:
      genrep-evaluate linear --checkpoint runs/gauss --data fashion-mnist --labels-per-class 10 --out result.json
    """
    _measure("linear", **options)


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
    labels_per_class: int | None,
    shift: Any,
    out: Path | None,
    seed: int,
    cache: Path | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        import torch

        from genrep.evaluate.data import open_data
        from genrep.evaluate.evaluation import PROBES, evaluate
        from genrep.evaluate.result import write_result
        from genrep.evaluate.table import table

        out = out or _named(measure, checkpoint, data_name, labels_per_class=labels_per_class, shift=shift, seed=seed)
        _check_writable(out)
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        with _progress(quiet=quiet) as progress:
            result = evaluate(
                checkpoint,
                open_data(data_name),
                [PROBES[measure](labels_per_class)],
                shift=shift,
                seed=seed,
                cache=cache,
                device=_device(device),
                progress=progress,
                command=shlex.join(["genrep-evaluate", *sys.argv[1:]]),
            )[0]
        write_result(result, out)
    except DataError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command to continue") from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if not quiet:
        click.echo(f"{table(result)}\nwritten to {out}")


def _follow(
    run: Path,
    *,
    data_name: str,
    labels_per_class: int | None,
    shift: Any,
    out: Path | None,
    seed: int,
    cache: Path | None,
    device: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    if cache is not None:
        raise click.UsageError("--follow measures every checkpoint once and keeps no features: leave out --cache")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        import torch

        from genrep.evaluate.data import open_data
        from genrep.evaluate.evaluation import check_labels
        from genrep.evaluate.follow import follow
        from genrep.evaluate.knn import KnnProbe
        from genrep.train.checkpoint import checkpoints

        settings = {"labels_per_class": labels_per_class, "shift": shift, "seed": seed}
        named = _named("follow-knn", run, data_name, **settings)
        out = out or run / "evaluation" / f"{named.stem}.jsonl"  # the run may not be there yet
        _check_writable(out)
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        data, probe = open_data(data_name), KnnProbe(labels_per_class)
        check_labels([probe], data)
        if not checkpoints(run) and not quiet:
            click.echo(f"{run} has no checkpoint yet: waiting for it", err=True)
        with _progress(quiet=quiet) as progress:
            lines = follow(
                run,
                data,
                probe,
                out,
                shift=shift,
                seed=seed,
                device=_device(device),
                progress=progress,
                command=shlex.join(["genrep-evaluate", *sys.argv[1:]]),
            )
            for line in lines:
                if not quiet:
                    low, high = line["interval"]
                    click.echo(
                        f"step {line['step']}: top-1 {line['top1']:.1%} ({low:.1%} to {high:.1%}) of "
                        f"{len(data.held_out.labels):,} held-out images"
                    )
    except DataError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command to go on") from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if not quiet:
        click.echo(f"{run} is finished; written to {out}")


def _named(
    measure: str, checkpoint: Path, data_name: str, *, labels_per_class: int | None, shift: str, seed: int
) -> Path:
    """Where a result goes unless the user says: a name for each measurement, in the folder of the run."""
    from genrep.evaluate.evaluation import run_folder

    kind, _, place = data_name.partition(":")
    words = [measure, kind]
    words += [re.sub(r"\W+", "-", Path(place).name)] if place else []
    words += [f"{labels_per_class}-labels"] if labels_per_class else []
    words += [shift] if shift != "none" else []
    words += [f"seed{seed}"] if seed else []
    words += [checkpoint.stem] if checkpoint.is_file() else []
    return run_folder(checkpoint) / "evaluation" / f"{'-'.join(words)}.json"


def _check_writable(path: Path) -> None:
    """See, before the work, that a file can be made there."""
    if path.is_dir():
        raise DataError(f"--out {path} is a folder: name a file in it, such as {path / 'result.json'}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    effective = os.access in os.supports_effective_ids
    if not (folder.is_dir() and os.access(folder, os.W_OK, effective_ids=effective)):
        raise DataError(f"nothing can be written into {folder}: choose another --out")


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _device(name: str | None) -> str:
    """The device to use, seen to be there."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"device {name!r} cannot be used ({reason}): use --device cpu, or one of this machine"
        ) from error
    return name


@contextmanager
def _progress(*, quiet: bool) -> Iterator["Progress"]:
    """A bar on a terminal."""
    from tqdm import tqdm

    with tqdm(disable=quiet or not sys.stderr.isatty(), leave=False) as bar:
        current = ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:
                current = what
                bar.reset(total)
                bar.set_description(what)
            bar.update(done - bar.n)

        yield show


if __name__ == "__main__":
    main()
