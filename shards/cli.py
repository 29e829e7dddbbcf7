"""What all commands share: a wrong option is one line, like every other fault."""

from typing import Any

import click


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


class Group(_OneLine, click.Group):
    """For ``@click.group(cls=Group)``; its commands are of the same kind."""

    command_class = Command
