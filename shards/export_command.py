"""genrep-shards export: a set in the layout of another reader."""

import click

from genrep.shards.cli import Group


@click.group(cls=Group)
def export() -> None:
    """Write a set in the layout of another reader; the set stays as it is."""
