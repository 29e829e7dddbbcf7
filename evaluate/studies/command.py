"""genrep-study: questions of the paper, each one command."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrep.evaluate.cli import DATA, QUIET, Numbers, present_device
from genrep.shards.cli import Group, faults_in_one_line, interruptible, key_values

TABLES = ("imagenet", "conditional", "cars", "figure6", "sigma", "pool", "mix")

if TYPE_CHECKING:
    from genrep.evaluate.studies.catalogue import Scale
    from genrep.evaluate.studies.cell import Cell
    from genrep.evaluate.studies.record import Records
    from genrep.evaluate.studies.slurm import Cluster
    from genrep.evaluate.studies.study import Study


POSITIVE = click.IntRange(min=1)
FOLDER: dict[str, Any] = {
    "type": click.Path(file_okay=False, path_type=Path),
    "help": "Folder of sets, runs and cells; studies that share one share them.",
}
OUT, TOY_OUT = click.option("--out", required=True, **FOLDER), click.option("--out", **FOLDER)
OPTIONS = [
    click.option(
        "--results",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Where finished cells and reports go.  [default: --out]",
    ),
    click.option("--jobs", type=POSITIVE, default=1, show_default=True, help="Cells at once, a core each."),
    click.option(
        "--engine",
        type=click.Choice(["local", "slurm"]),
        default="local",
        show_default=True,
        help="slurm: each cell a job, through submitit (pip install 'genrep[slurm]'); all machines must see --out.",
    ),
    click.option(
        "--slurm",
        "parameters",
        multiple=True,
        metavar="KEY=VALUE",
        help="Of submitit, such as slurm_partition=cpu or timeout_min=90; may be repeated.",
    ),
    click.option("--steps", type=POSITIVE, default=400, show_default=True, help="Updates of every encoder."),
    click.option("--samples", type=POSITIVE, default=20_000, show_default=True, help="Anchors of a set."),
    click.option("--seeds", type=POSITIVE, metavar="N", help="At most so many a row.  [default: of the study]"),
    click.option("--images", type=click.IntRange(min=4), default=512, show_default=True, help="Of an update."),
    DATA,
    click.option(
        "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N, for training and probes of every cell."
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print cells, seconds and bytes, of finished cells or a few minutes' measurement.",
    ),
    click.option("--report", "only_report", is_flag=True, help="Report the cells that are there; do none."),
    QUIET,
]
STDS = click.option("--std", "stds", type=Numbers(float), help="Strengths without classes.  [default: 0.1,0.2,0.5,1,2]")
CLASS_STDS = click.option("--class-std", "class_stds", type=Numbers(float), help="With classes.  [default: 0.2,0.5,1]")
SIZES = click.option(
    "--n", "sizes", type=Numbers(int), help="Numbers of samples.  [default: 256,1024,4096,16384,65536]"
)


def _options(*further: Callable[..., Any], out: Callable[..., Any] = OUT) -> Callable[..., Callable[..., None]]:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed([out, *OPTIONS, *further]):
            command = option(command)
        return command

    return decorate


@click.group(cls=Group)
def main() -> None:
    """Studies: plan, train, probe, report. The same command goes on with what is missing.

    Every cell (a training and its measurement) leaves one file in cells/ when it is finished and is never done again,
    also not for another study with the same --out.

    \b
    Examples: its cost first; then the study on two cores
      genrep-study views --out studies --dry-run
      genrep-study views --out studies --jobs 2
    """


@main.command()
@_options(STDS, CLASS_STDS)
def views(**options: Any) -> None:
    """Does T_z help, which view is best, is real data ahead?

    Primary contrast, stated before any run: T_z + T_x minus T_x, 20 nearest neighbours and 10 labels a class, clean
    and affine, five seeds, paired. All else is exploratory. The strength of every row is its own best on held-out
    training images.

    \b
    Example:
      genrep-study views --out studies --jobs 2
    """
    _study("views", **options)


@main.command()
@_options(STDS)
def std(**options: Any) -> None:
    """Accuracy over the strength of latent views, with T_x and without.

    \b
    Example:
      genrep-study std --out studies --std 0.1,0.2,0.5,1,2
    """
    _study("std", **options)


@main.command()
@_options(STDS, CLASS_STDS, SIZES)
def scaling(**options: Any) -> None:
    """Accuracy over the number of generated samples, at equal updates.

    \b
    Example:
      genrep-study scaling --out studies --n 256,1024,4096,16384,65536
    """
    _study("scaling", **options)


@main.command()
@_options(CLASS_STDS)
def pool(**options: Any) -> None:
    """Views an anchor: 1, 5, 20 Gaussian, two steered, one independent.

    \b
    Example:
      genrep-study pool --out studies
    """
    _study("pool", **options)


@main.command()
@_options(STDS)
def mix(**options: Any) -> None:
    """Shares of real images beside generated ones.

    \b
    Example:
      genrep-study mix --out studies --seeds 1
    """
    _study("mix", **options)


@main.command()
@_options(STDS)
def generators(**options: Any) -> None:
    """Generators that saw images, classes too, or nothing at all.

    \b
    Example:
      genrep-study generators --out studies --seeds 1
    """
    _study("generators", **options)


@main.command()
@_options()
def methods(**options: Any) -> None:
    """All training methods on T_x, T_z and both, with three Gaussian views an anchor.

    \b
    Example:
      genrep-study methods --out studies --jobs 2
    """
    _study("methods", **options)


@main.command()
@click.argument("table_name", metavar="TABLE", type=click.Choice(TABLES))
@click.option(
    "--scale",
    "size",
    type=click.Choice(["paper", "toy"]),
    required=True,
    help="paper: print commands, expected numbers and cost; toy: run it on the embedded generator.",
)
@_options(STDS, CLASS_STDS, SIZES, out=TOY_OUT)
def replay(table_name: str, size: str, out: Path | None, **options: Any) -> None:
    """The paper's tables, figure 6, and the authors' early curves.

    TABLE is imagenet, conditional, cars, figure6, sigma, pool or mix.

    \b
    Examples: what it takes; the same question on the embedded generator
      genrep-study replay imagenet --scale paper
      genrep-study replay imagenet --scale toy --out studies --jobs 2
    """
    from genrep.evaluate.studies.replay import table

    if size == "paper":
        click.echo(table(table_name).plan())
    elif out is None:
        raise click.UsageError("--scale toy needs a folder for its sets, runs and cells: --out DIR")
    else:
        _study(table(table_name).toy, out=out, **options)


@main.command()
@_options(STDS, SIZES)
def online(out: Path, results: Path | None, data_name: str, **options: Any) -> None:
    """Fixed sets for several epochs against fresh samples, at equal updates and at equal time.

    Times are measured on this machine first, once for a folder, with one thread. Fresh samples are a set of which
    each is seen once; they count as rendered on the core that trains.

    \b
    Example:
      genrep-study online --out studies --jobs 2 --n 1024,4096,16384
    """
    from genrep.evaluate.data import open_data
    from genrep.evaluate.studies.cost import FILE, measured_rates
    from genrep.evaluate.studies.online import SIZES, online

    def made(scale: "Scale") -> "Study":
        setting = scale.gauss("fashion-null", "simclr", "both")[0]
        with faults_in_one_line():
            open_data(data_name)
            path = (results or out) / FILE  # beside the cells, which depend on it
            return online(scale, measured_rates(setting, path, out=out, data=data_name, device=options["device"]))

    _study(made, out=out, results=results, data_name=data_name, **{**options, "sizes": options["sizes"] or SIZES})


def _study(
    made: str | Callable[["Scale"], "Study"],
    *,
    out: Path,
    results: Path | None,
    jobs: int,
    engine: str,
    parameters: tuple[str, ...],
    data_name: str,
    device: str,
    dry_run: bool,
    only_report: bool,
    quiet: bool,
    **scale: Any,
) -> None:
    from genrep.evaluate.studies.analysis import analyse
    from genrep.evaluate.studies.catalogue import STUDIES, Scale
    from genrep.evaluate.studies.record import Records
    from genrep.evaluate.studies.report import write_report
    from genrep.evaluate.studies.runner import run
    from genrep.evaluate.studies.runner import start as start_process
    from genrep.shards import atomic
    from genrep.shards.errors import DataError

    if parameters and engine != "slurm":
        raise click.UsageError("--slurm is for --engine slurm, which was not asked for")
    if dry_run and only_report:
        raise click.UsageError("--dry-run tells what is to be done, --report what was: give one of them")
    chosen = Scale(**{option: value for option, value in scale.items() if value is not None})
    study = (STUDIES[made] if isinstance(made, str) else made)(chosen)
    results = results or out
    records = Records(results, data=data_name)
    with interruptible(), faults_in_one_line():
        _check(study, chosen, data_name)
        if engine == "local" and not only_report:
            present_device(device)
        if dry_run:
            click.echo(_plan(study, records, out=out, data=data_name, jobs=jobs, device=device))
            return
        if not quiet:
            for warning in study.warnings(records):
                click.echo(f"warning: {warning}", err=True)
        if only_report and not any(cell in records for cell in study.cells(records)):
            raise DataError(f"{records.folder} holds no finished cell of this study: leave out --report to do some")
        with atomic.reported(out):
            out.mkdir(parents=True, exist_ok=True)

        def on_done(cell: "Cell", left: int) -> None:
            if not quiet:
                click.echo(f"{cell.name}: done, {left} left", err=True)

        try:
            if not only_report:
                start = _cluster(out, parameters).start if engine == "slurm" else start_process
                run(
                    study,
                    records,
                    out=out,
                    results=results,
                    data=data_name,
                    jobs=jobs,
                    device=device,
                    on_done=on_done,
                    start=start,
                )
        finally:  # also of a study that was interrupted
            text = write_report(analyse(study, records), results / study.name, scale=_scale(chosen))
        if not quiet:
            click.echo(f"{text}\nwritten to {results / study.name}: report.html, tables and plots")


def _cluster(out: Path, parameters: tuple[str, ...]) -> "Cluster":
    from genrep.evaluate.studies.slurm import Cluster

    pairs = key_values(parameters, option="--slurm")
    return Cluster(out / "slurm", {key: int(value) if value.isdigit() else value for key, value in pairs.items()})


def _check(study: "Study", scale: "Scale", data: str) -> None:
    """What would make every cell fail is said before the first."""
    from genrep.evaluate.data import open_data
    from genrep.shards.errors import DataError

    settings = [row.derive(candidate) for row in study.rows for candidate in row.candidates]
    largest, fewest = max(each.batch_size for each in settings), min(each.samples for each in settings)
    if largest > fewest:
        most = fewest * min(each.images_per_sample for each in settings)
        raise DataError(
            f"an update takes {largest} samples and the smallest set has {fewest}: use --images {most} or less"
        )
    open_data(data)


def _scale(scale: "Scale") -> str:
    return f"{scale.steps} updates of {scale.images} images and {scale.samples:,} anchors unless a row says otherwise."


def _plan(study: "Study", records: "Records", *, out: Path, data: str, jobs: int, device: str) -> str:
    from genrep.evaluate.studies.cost import predict, rates_of
    from genrep.shards import atomic

    with atomic.reported(out):
        out.mkdir(parents=True, exist_ok=True)
    cells = study.cells(records)
    cost = predict(cells, records, rates_of(study, records, out=out, data=data, device=device), out=out)
    later = sum(row.seeds for row in study.open_rows(records))
    each = sum(cost.cells.values()) / max(len(cost.cells), 1)
    lines = [f"{study.name}: {study.question}"]
    lines += [f"set   {seconds:7.0f} s  {name}" for name, seconds in cost.sets.items()]
    lines += [f"once  {cost.floors:7.0f} s  floors"] if cost.floors else []
    lines += [f"cell  {seconds:7.0f} s  {name}" for name, seconds in cost.cells.items()]
    lines += [
        f"up to {later * each:7.0f} s  {later} cells of rows whose setting is chosen when their candidates are done"
    ]
    lines += [
        f"{len(cells) - len(cost.cells)} cells are finished, {len(cost.cells)} missing, up to {later} to come: "
        f"{(cost.seconds(jobs) + later * each / jobs) / 60:.0f} minutes with --jobs {jobs}, "
        f"{cost.set_bytes / 1e6:,.0f} MB of sets, {cost.run_bytes / 1e6:,.0f} MB of runs"
    ]
    lines += [f"warning: {warning}" for warning in study.warnings(records)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
