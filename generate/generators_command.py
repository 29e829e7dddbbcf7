"""genrep-generators: what can be rendered, and whether it keeps the protocol."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genrep.shards.cli import Group, key_values
from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

COLUMNS = ("name", "needs", "latent", "resolution", "licence", "source")


@click.group(cls=Group)
def main() -> None:
    """Generators: what can be rendered, and whether it keeps the protocol.

    \b
    Examples:
      genrep-generators list
      genrep-generators check fashion
    """


@main.command("list")
def list_command() -> None:
    """Print the registered generators as a Markdown table.

    A generator of your own needs no registration: name it as package.module:factory.

    \b
    Example:
      genrep-generators list
    """
    from genrep.generate.generators import known_generators

    rows = [COLUMNS, *(_row(name, entry) for name, entry in known_generators().items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    click.echo("\n".join(lines))


def _row(name: str, entry: "EntryPoint") -> tuple[str, ...]:
    """Its cells, from the dictionary ``ABOUT[name]`` in the module of its factory, if there is one."""
    try:
        module = sys.modules[entry.load().__module__]
    except Exception as error:  # one broken plug-in must not hide the others
        return (name, f"could not be imported: {type(error).__name__}", *[""] * (len(COLUMNS) - 2))
    about = getattr(module, "ABOUT", {}).get(name, {})
    return tuple(str(about.get(column, name if column == "name" else "")) for column in COLUMNS)


@main.command("check")
@click.argument("name")
@click.option("--weights", type=click.Path(path_type=Path), help="File or folder handed to the generator.")
@click.option(
    "--generator-arg",
    "arguments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Further argument of the generator; may be repeated.",
)
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU where there is one."
)
@click.option("--quiet", is_flag=True, help="Print only what does not hold.")
def check_command(name: str, weights: Path | None, arguments: tuple[str, ...], device: str, quiet: bool) -> None:
    """Render a few images with generator NAME and report what holds; exit status 1 if anything does not.

    \b
    Examples:
      genrep-generators check fashion
      genrep-generators check biggan-deep-128 --generator-arg config=tiny
      genrep-generators check my_package.my_module:factory --weights my.pt
    """
    try:
        from genrep.generate.check import check
        from genrep.generate.generation import rank_from_environment, resolve_device
        from genrep.generate.generators import load_generator

        generator = load_generator(name, weights=weights, arguments=key_values(arguments))
        broken = 0
        for finding in check(generator, device=resolve_device(device, rank_from_environment())):
            broken += finding.passed is False
            if finding.passed is False or not quiet:
                mark = {True: "ok  ", False: "FAIL", None: "-   "}[finding.passed]
                click.echo(f"{mark} {finding.claim}: {finding.detail}")
    except DataError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command again") from None
    if broken:
        raise click.ClickException(f"{name} does not keep the protocol: {broken} of the claims above do not hold")


if __name__ == "__main__":
    main()
