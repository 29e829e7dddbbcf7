import shlex
from importlib.metadata import entry_points

import pytest
from click.testing import CliRunner

from genrep.evaluate.studies.analysis import analyse
from genrep.evaluate.studies.catalogue import Scale
from genrep.evaluate.studies.command import TABLES, main
from genrep.evaluate.studies.replay import table
from genrep.evaluate.studies.table import markdown

# of the authors' slides and notebook
KNOWN = {
    ("imagenet", "SimCLR, real images, T_x"): 43.9,
    ("imagenet", "SimCLR, BigBiGAN, T_x"): 35.7,
    ("imagenet", "SimCLR, BigBiGAN, T_z + T_x, sigma 0.2"): 42.6,
    ("cars", "SimCLR, real images, T_x"): 39.7,
    ("cars", "SimCLR, StyleGAN2, T_x"): 40.9,
    ("cars", "SimCLR, StyleGAN2, T_z + T_x, sigma 0.25"): 49.9,
    ("sigma", "SimCLR, T_z + T_x, sigma 0.05"): 60.22,
    ("sigma", "SimCLR, T_z + T_x, sigma 0.1"): 63.18,
    ("sigma", "SimCLR, T_z + T_x, sigma 0.2"): 65.46,
    ("sigma", "SimCLR, T_z + T_x, sigma 0.3"): 65.42,
    ("sigma", "SimCLR, T_z + T_x, sigma 0.4"): 64.42,
    ("pool", "SupCon, T_x"): 65.48,
    ("pool", "SupCon, angular, 1 view"): 67.94,
    ("pool", "SupCon, angular, 5 views"): 70.30,
    ("pool", "SupCon, angular, 20 views"): 70.94,
    ("pool", "SupCon, Gaussian, 20 views"): 74.46,
    ("pool", "SupCon, independent, 1 view"): 68.08,
    ("pool", "SupCon, independent, 20 views"): 70.34,
    ("mix", "all real"): 67.36,
    ("mix", "5 % generated"): 67.52,
    ("mix", "25 % generated"): 66.12,
    ("mix", "50 % generated"): 64.68,
    ("mix", "100 % generated"): 58.60,
}


def test_the_expected_numbers_are_those_that_are_known_and_no_others():
    found = {(name, row.name): row.expected for name in TABLES for row in table(name).rows if row.expected is not None}
    assert found == KNOWN


@pytest.mark.parametrize("name", TABLES)
def test_every_command_of_the_paper_scale_is_accepted(name):
    programs = {entry.name: entry for entry in entry_points(group="console_scripts")}
    for line in {command for row in table(name).rows for command in row.commands}:
        program, *arguments = shlex.split(line)
        command = programs[program].load()
        context = command.make_context(program, arguments)
        if hasattr(command, "resolve_command"):
            sub, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            command.make_context(sub, rest)


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_the_toy_stands_for_a_row_of_the_paper(name):
    study = table(name).toy(Scale())
    assert study.name == f"replay-{name}"
    assert {toy for _, _, toy in study.paper if toy} <= {row.name for row in study.rows}


def test_the_plan_counts_a_shared_set_once():
    outcome = CliRunner().invoke(main, ["replay", "imagenet", "--scale", "paper"])
    assert outcome.exit_code == 0
    assert "SimCLR, BigBiGAN, T_z + T_x, sigma 0.2: 42.6\n" in outcome.stdout
    assert "SimCLR, BigBiGAN, T_z: not established\n" in outcome.stdout
    assert "cost: 2 sets, 2,600,000 images to render, 0.13 TB" in outcome.stdout  # 2.6 million of 128 x 128 x 3 bytes
    assert "5 encoders, 1,422,120 updates" in outcome.stdout  # four of 20 epochs of 5,079, an inverter of 200


def test_the_report_of_a_toy_shows_the_papers_numbers(records, finish):
    study = table("imagenet").toy(Scale(stds=(0.2,), class_stds=(0.5,)))
    for cell in study.cells(records):
        finish(cell)
    text = markdown(analyse(study, records), scale="")
    assert "| SimCLR, BigBiGAN, T_z + T_x, sigma 0.2 | 42.6 | 50.0 | 50.0 |" in text
    assert "| inverter, BigBiGAN | not established |  |  |" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["replay", "imagenet"], "Missing option '--scale'"),
        (
            ["replay", "imagenet", "--scale", "toy"],
            "--scale toy needs a folder for its sets, runs and cells: --out DIR",
        ),
        (["replay", "table9", "--scale", "paper"], "'table9' is not one of 'imagenet'"),
    ],
)
def test_wrong_input_is_one_line(arguments, told):
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 2
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("Error: ")]
    assert told in line
