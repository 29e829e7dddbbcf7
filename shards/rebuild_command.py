"""genrep-shards repair, extend and add-views: what needs the generator of a set, loaded when it is called."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from genrep.shards.cli import (
    LOCATION,
    Command,
    faults_in_one_line,
    folder_argument,
    interruptible,
    key_values,
    progress_bar,
    quiet_option,
)
from genrep.shards.location import Location

local_folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
workers_option = click.option(
    "--encode-workers", default=1, show_default=True, type=click.IntRange(min=1), help="Threads that encode images."
)


class Percentage(click.ParamType):
    """``1%`` -> 0.01."""

    name = "percentage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(value.removesuffix("%")) / 100
            if not (value.endswith("%") and 0 <= share <= 1):
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} is no percentage from 0% to 100%, such as 1%", param, ctx)
        return share


def prove_options(*, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--prove`` and the seed of its choice."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option(
            "--seed", type=click.IntRange(min=0), help="Of the choice of --prove.  [default: drawn and printed]"
        )(function)
        return click.option("--prove", "share", metavar="1%", type=Percentage(), help=help)(function)

    return decorate


def generator_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a set cannot say of its generator: code that is not registered, weights, arguments, the device."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU."),
        click.option("--generator-arg", "arguments", multiple=True, metavar="KEY=VALUE", help="As it was made with."),
        click.option("--weights", type=click.Path(path_type=Path), help="As it was made with."),
        click.option(
            "--generator",
            "generator_name",
            help="Registered name, or module:factory, which is run only if you name it here.  [default: the recipe's]",
        ),
    ):
        function = option(function)
    return function


def chosen_generator(
    *, generator_name: str | None, weights: Path | None, arguments: tuple[str, ...], device: str
) -> Any:
    """The ``Chosen`` of genrep.generate."""
    pairs = key_values(arguments)
    return rebuild().Chosen(name=generator_name, weights=weights, arguments=pairs, device=device)


def rebuild() -> Any:
    """The module by its name: shards/ imports no other part."""
    return import_module("genrep.generate.rebuild")


def drawn_seed() -> int:
    """A seed that nobody could foresee who made a set to deceive."""
    from secrets import randbelow

    return randbelow(2**32)


@click.command(cls=Command)
@local_folder_argument
@prove_options(help="Also take shards for broken in which a random part, rendered again, has other images.")
@click.option("--change-hashes", is_flag=True, help="Write shards whose sha256 becomes another, and list them.")
@generator_options
@workers_option
@quiet_option
def repair(
    folder: Path,
    *,
    share: float | None,
    seed: int | None,
    change_hashes: bool,
    encode_workers: int,
    quiet: bool,
    **generator: Any,
) -> None:
    """Render broken and missing shards of a finished set again, and touch no other file.

    Every member is compared with tables, recipe and manifest. A shard ends with the sha256 that the manifest says, or
    stays as it is: in another environment, where pixels and so hashes may differ, nothing is written unless
    --change-hashes is given.

    \b
    Example: what is broken; then mended
      genrep-shards verify data --deep
      genrep-shards repair data
    """
    seed = drawn_seed() if seed is None else seed
    with interruptible(folder), faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        done = rebuild().repair(
            folder,
            share=share or 0.0,
            seed=seed,
            change_hashes=change_hashes,
            chosen=chosen_generator(**generator),
            encode_workers=encode_workers,
            progress=show,
        )
    for name, before, after in done.changed:
        click.echo(f"{name}: sha256 was {before or 'not known'}, is {after}")
    for fault in done.faults:
        click.echo(str(fault))
    if done.faults:
        raise click.ClickException(f"{folder} is still damaged ({len(done.faults)} found): see above")
    if not quiet:
        seeded = f" (images rendered again from seed {seed})" if share else ""
        click.echo(f"{folder} is whole{seeded}: {', '.join(done.rebuilt) or 'no shard'} rebuilt")


@click.command(cls=Command)
@local_folder_argument
@click.option("--n", "num_samples", required=True, type=click.IntRange(1, 10**9), help="Anchors to have in all.")
@generator_options
@workers_option
@quiet_option
def extend(folder: Path, *, num_samples: int, encode_workers: int, quiet: bool, **generator: Any) -> None:
    """Add anchors to a finished set until it has N; the shards that are there stay byte for byte.

    Until it is done, the set counts as unfinished. The new samples are those that a set of N would have; only the
    layout differs from it, since a short last shard stays short.

    \b
    Example: from a thousand anchors to two thousand
      genrep-generate --n 1000 --out data
      genrep-shards extend data --n 2000
    """
    with interruptible(folder), faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        manifest = rebuild().extend(
            folder,
            num_samples,
            chosen=chosen_generator(**generator),
            encode_workers=encode_workers,
            progress=show,
        )
    if not quiet:
        click.echo(f"{manifest.num_samples:,} samples in {len(manifest.shards)} shards in {folder}")


@click.command("add-views", cls=Command)
@folder_argument
@click.option("--views", required=True, help="As of genrep-generate: gauss, steer, ... joined by , or +.")
@click.option("--num-views", type=click.IntRange(min=1), help="Views, if --views names a single kind.  [default: 1]")
@click.option("--std", type=click.FloatRange(min=0), help="[default: that of DIR, else the generator's]")
@click.option(
    "--walks",
    "walks_path",
    type=click.Path(path_type=Path),
    help="Directions of steer views.  [default: those of DIR, else the generator's]",
)
@click.option("--out", required=True, metavar="DIR", type=LOCATION, help="Folder or URL of the new set.")
@generator_options
@workers_option
@quiet_option
def add_views(
    folder: Location,
    *,
    views: str,
    num_views: int | None,
    std: float | None,
    walks_path: Path | None,
    out: Location,
    encode_workers: int,
    quiet: bool,
    **generator: Any,
) -> None:
    """Render further views of the anchors of DIR into a set of their own, which is read joined to DIR.

    Its manifest names the sha256 of DIR's manifest, and readers refuse to join it to any other set.

    \b
    Example: steered views beside the Gaussian ones, and training on both
      genrep-shards add-views data --views steer --out steered
      genrep-train --shards data --join steered
    """
    with interruptible(out), faults_in_one_line(), progress_bar(" samples", quiet=quiet) as show:
        manifest = rebuild().add_views(
            folder,
            out,
            views=views,
            num_views=num_views,
            std=std,
            walks_path=walks_path,
            chosen=chosen_generator(**generator),
            encode_workers=encode_workers,
            progress=show,
        )
    if not quiet and manifest is None:
        click.echo(f"this rank has written its shards in {out}; others are still at work")
    elif not quiet:
        click.echo(f"views of {manifest.num_samples:,} samples in {len(manifest.shards)} shards in {out}")
