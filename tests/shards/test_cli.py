import click
import pytest
from click.testing import CliRunner

from genrep.shards import cli
from genrep.shards.cli import Command, Group


@click.group(cls=Group)
def main():
    """A group."""


@main.command()
@click.option("--n", type=click.IntRange(min=1))
def count(n):
    if n == 13:
        raise click.UsageError("13 brings bad luck")


@click.command(cls=Command)
@click.option("--n", type=click.IntRange(min=1), required=True)
def alone(n):
    """No group."""


@pytest.mark.parametrize(
    ("command", "arguments", "line"),
    [
        (alone, ["--n", "0"], "Error: Invalid value for '--n': 0 is not in the range x>=1."),
        (alone, [], "Error: Missing option '--n'."),
        (main, ["no"], "Error: No such command 'no'."),
        (main, ["count", "--m"], "Error: No such option '--m'"),
        (main, ["count", "--n", "13"], "Error: 13 brings bad luck"),
    ],
)
def test_a_usage_fault_is_one_line_and_status_2(command, arguments, line):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert result.output.startswith(line)
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(("command", "arguments"), [(main, ["count", "--n", "1"]), (alone, ["--n", "1"])])
def test_every_command_keeps_the_memory_that_it_frees(monkeypatch, command, arguments):
    kept = []
    monkeypatch.setattr(cli, "keep_memory", lambda: kept.append(True))
    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert kept == [True]
