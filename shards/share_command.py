"""genrep-shards card and push: a set for others."""

from typing import TYPE_CHECKING

import click

from genrep.shards.cli import Command, faults_in_one_line, folder_argument, progress_bar, quiet_option
from genrep.shards.errors import DataError
from genrep.shards.location import Location

if TYPE_CHECKING:
    from genrep.shards.reader import ShardDataset


def _whole(dataset: "ShardDataset") -> "ShardDataset":
    """The same; a part of a set has no folder that a card could lie in or that could be sent."""
    if "subset" in dataset.recipe:
        raise DataError(f"{dataset.folder} is the set that this is a part of: name that, the whole of it")
    return dataset


@click.command(cls=Command)
@folder_argument
@quiet_option
def card(folder: Location, *, quiet: bool) -> None:
    """Write a dataset card into DIR: README.md with the Hub's header, samples.png and croissant.json.

    It tells the recipe, the generator with the hash of its weights and its licence, statistics, and how the set is
    checked and made again. The shards, and what the manifest says of them, stay as they are.

    \b
    Example:
      genrep-shards card data
    """
    from genrep.shards.card import write_card
    from genrep.shards.reader import ShardDataset

    with faults_in_one_line():
        written = write_card(_whole(ShardDataset(folder)))
    if not quiet:
        click.echo(f"{', '.join(path.name for path in written)} written in {folder}")


@click.command(cls=Command)
@folder_argument
@click.argument("repository", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="If the repository is made: only for you and whom you let in.")
@click.option("--dry-run", is_flag=True, help="List what would go, and send nothing.")
@quiet_option
def push(folder: Location, repository: str, *, private: bool, dry_run: bool, quiet: bool) -> None:
    """Upload a set to a dataset repository of the Hugging Face Hub.

    The same command continues an upload that was stopped. The manifest goes last. Needs huggingface_hub (the extra
    hub) and a login (hf auth login).

    \b
    Example: what would go; then the set, from where it can be read at once
      genrep-shards push data me/views --dry-run
      genrep-shards push data me/views
      genrep-shards info hf://datasets/me/views
    """
    from genrep.shards.push import push as send
    from genrep.shards.push import uploads
    from genrep.shards.reader import ShardDataset

    with faults_in_one_line():
        dataset = _whole(ShardDataset(folder))
        files = uploads(dataset)
        if dry_run:
            for file in files:
                click.echo(f"{file.bytes:>16,}  {file.name}")
            click.echo(f"{sum(file.bytes for file in files):>16,}  in {len(files):,} files would go to {repository}")
            return
        with progress_bar("B", quiet=quiet) as show:
            sent = send(dataset, repository, private=private, progress=show)
    if not quiet:
        click.echo(f"{sent:,} of {len(files):,} files sent to {repository}, the others were there")
