"""What all commands share: a wrong option is one line, like every other fault; a bar; a stop that loses nothing."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from genrep.shards.errors import DataError
from genrep.shards.layout import FULL_COLOUR, SUBSAMPLINGS
from genrep.shards.location import Location, location
from genrep.shards.memory import keep_memory


class LocationType(click.ParamType):
    """A folder, or a URL that fsspec knows."""

    name = "DIR or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        return location(value)


LOCATION = LocationType()
folder_argument = click.argument("folder", metavar="DIR", type=LOCATION)
subsampling_option = click.option(
    "--subsampling",
    default=FULL_COLOUR,
    show_default=True,
    type=click.Choice(SUBSAMPLINGS),
    help="Of the colours of jpg: 4:2:0 keeps one value for 2 x 2 pixels, in smaller files.",
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress bar and no summary.")


class _OneLine(click.Command):
    """A usage fault without the two lines on usage that click puts before it; status 2 as ever."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.ctx = None
            raise


class Command(_OneLine):
    """For ``@click.command(cls=Command)``."""

    def invoke(self, ctx: click.Context) -> Any:
        keep_memory()
        return super().invoke(ctx)


class Group(_OneLine, click.Group):
    """For ``@click.group(cls=Group)``; its commands are of the same kind."""

    command_class = Command


def key_values(texts: tuple[str, ...], *, option: str = "--generator-arg") -> dict[str, str]:
    """Texts ``KEY=VALUE`` of an option that may be repeated."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, pairs, strict=True):
        if not (key and equals):
            raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint=option)
    return {key: value for key, _, value in pairs}


@contextmanager
def faults_in_one_line() -> Iterator[None]:
    """Within, what the user can mend ends the command with status 1; a bug of ours keeps its traceback."""
    try:
        yield
    except DataError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def interruptible(out: Location | None = None) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the command in one line; finished shards, where it makes some, lie in ``out``."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        where = f" (finished shards are in {out})" if out is not None and out.exists() else ""
        raise click.ClickException(f"interrupted{where}; run the same command to continue") from None
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def progress_bar(unit: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, moved by (done, total)."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:  # what an earlier run did counts as done, not as fast
                bar.total, bar.initial, bar.n = total, done, done
            bar.update(done - bar.n)

        yield show


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt
