import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from genrep.evaluate.studies.catalogue import STUDIES, Scale
from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.record import Records
from genrep.evaluate.studies.study import CHOICE_SEEDS, Row
from genrep.evaluate.studies.work import Order


def test_a_row_of_several_settings_takes_the_best_on_held_out_images(records, finish, make_setting):
    row = Row("both", (make_setting(0.1), make_setting(0.2), make_setting(0.5)), 3)
    for std, held_out in ((0.1, 0.6), (0.2, 0.7), (0.5, 0.65)):
        for seed in range(CHOICE_SEEDS):
            assert row.chosen(records) is None
            assert row.cells(records) == []
            finish(Cell(make_setting(std), seed), held_out=held_out)
    assert row.chosen(records) == make_setting(0.2)
    assert row.cells(records) == [Cell(make_setting(0.2), seed) for seed in range(3)]


def test_no_test_image_has_a_part_in_a_choice(tmp_path, make_setting, finish, records):
    row = Row("both", (make_setting(0.1), make_setting(0.5)), 1)
    for std, held_out, right in ((0.1, 0.7, [0, 0, 0, 1]), (0.5, 0.6, [1, 1, 1, 1])):
        for seed in range(CHOICE_SEEDS):
            finish(Cell(make_setting(std), seed), held_out=held_out, right=right)
    assert row.chosen(records) == make_setting(0.1)
    before = row.chosen(Records(tmp_path, data="bars"))
    for std in (0.1, 0.5):
        for seed in range(CHOICE_SEEDS):
            finish(Cell(make_setting(std), seed), held_out={0.1: 0.7, 0.5: 0.6}[std], right=[0, 1, 0, 1])
    assert row.chosen(Records(tmp_path, data="bars")) == before


def test_primary_rows_come_first_and_seeds_go_round_the_others(study, records, finish):
    first = study.cells(records)
    assert [(cell.setting.views, cell.setting.source.std, cell.seed) for cell in first] == [
        ("both", 0.1, 0),
        ("both", 0.5, 0),
        ("both", 0.1, 1),
        ("both", 0.5, 1),
        ("pixel", 0.2, 0),
        ("pixel", 0.2, 1),
        ("pixel", 0.2, 2),
        ("latent", 0.2, 0),
        ("latent", 0.2, 1),
    ]
    for cell in first:
        finish(cell)
    assert [(cell.setting.source.std, cell.seed) for cell in study.cells(records) if cell not in records] == [(0.1, 2)]


@pytest.mark.parametrize("name", STUDIES)
def test_settings_that_a_finding_compares_are_alike_in_all_else(name):
    study = STUDIES[name](Scale())
    settings = {setting for row in study.rows for setting in row.candidates}
    assert {(setting.steps, setting.images) for setting in settings} == {(400, 512)}
    assert {setting.source.samples for setting in settings} == {20_000}


def test_the_primary_contrast_has_five_seeds_and_three_the_rest():
    study = STUDIES["views"](Scale())
    (primary,) = [contrast for contrast in study.contrasts if contrast.primary]
    assert (primary.first, primary.second) == ("SimCLR, T_z + T_x", "SimCLR, T_x")
    assert {row.name for row in study.rows if row.primary} == {primary.first, primary.second}
    assert {row.seeds for row in study.rows if row.primary} == {5}
    assert {row.seeds for row in study.rows if not row.primary} == {3}


def test_scaling_takes_prefixes_of_one_set(records, finish):
    scale = Scale(sizes=(256, 1024, 4096))
    study = STUDIES["scaling"](scale)
    for cell in [cell for row in study.rows for cell in row.choice_cells()]:
        finish(cell, held_out=0.5 + 0.01 * (cell.setting.source.std == 0.5))
    settings = {row.chosen(records) for row in study.rows}
    assert {setting.samples for setting in settings} == {256, 1024, 4096}
    assert {setting.source.samples for setting in settings} == {4096}
    names = {setting.source.name for setting in settings if setting.views != "pixel"}
    assert names == {"fashion-null-gauss-0.5-4096", "fashion-gauss-0.5-4096"}
    command = Cell(study.row("SimCLR, T_z, 256 samples").chosen(records), 0).command(records.folder)
    assert "--limit 256 " in command


def test_samples_that_are_hardly_seen_are_warned_of(records):
    study = STUDIES["scaling"](Scale(steps=100, images=512, sizes=(1024, 6400, 12800)))
    assert study.warnings(records) == [
        "12,800 samples are seen 2.0 times in 100 updates of 256: under 4 times, their number can hardly matter "
        "(--steps 200 or more)"
    ]


def test_the_pools_are_those_of_the_paper(records, finish):
    study = STUDIES["pool"](Scale(class_stds=(0.5,)))
    settings = [row.chosen(records) for row in study.rows]
    assert [(each.source.views, each.source.num_views) for each in settings[:-1]] == [
        ("gauss", 1),
        ("gauss", 5),
        ("gauss", 20),
        ("steer", 2),
        ("independent", 1),
    ]
    assert "--views gauss --std 0.5 --num-views 20 " in settings[2].source.command(records.folder)


def test_a_mixed_cell_needs_both_sets(records):
    study = STUDIES["mix"](Scale(stds=(0.2,)))
    half = study.row("SimCLR, 50% real images").chosen(records)
    assert [source.generator for source in half.sources] == ["fashion-null", "fashion-mnist"]
    assert "--mix sets/fashion-mnist-20000:0.5 " in Cell(half, 0).command(Path())
    assert study.row("SimCLR, 0% real images").chosen(records).mixed is None
    assert half.name != study.row("SimCLR, 25% real images").chosen(records).name


def test_methods_that_show_more_images_of_a_sample_see_fewer_samples(records):
    study = STUDIES["methods"](Scale())
    sizes = {row.candidates[0].method: row.candidates[0].batch_size for row in study.rows}
    assert (sizes["simclr"], sizes["multipos"], sizes["inverter"]) == (256, 128, 512)
    assert sum(row.seeds for row in study.rows) == 42


@pytest.mark.parametrize("name", STUDIES)
def test_an_order_reaches_its_process_as_it_was(name, tmp_path):
    for row in STUDIES[name](Scale()).rows:
        order = Order(Cell(row.derive(row.candidates[0]), 3), tmp_path, tmp_path / "results", "fashion-mnist", "cuda:1")
        assert Order.from_json(order.to_json()) == order
        assert "--device cuda:1 " in order.cell.command(tmp_path, device=order.device)


@pytest.mark.parametrize("name", STUDIES)
def test_every_command_of_a_study_is_accepted(name):
    for row in STUDIES[name](Scale()).rows:
        cell = Cell(row.derive(row.candidates[-1]), 0)
        commands = [cell.command(Path("o u t")), *(source.command(Path("o u t")) for source in cell.setting.sources)]
        for line in commands:
            program, *arguments = shlex.split(line)
            command = {entry.name: entry for entry in entry_points(group="console_scripts")}[program].load()
            context = command.make_context(program, arguments)
            if hasattr(command, "resolve_command"):
                name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
                command.make_context(name, rest)


def test_no_two_encoders_of_any_study_share_a_name():
    settings = {
        row.derive(setting) for name in STUDIES for row in STUDIES[name](Scale()).rows for setting in row.candidates
    }
    assert len({setting.name for setting in settings}) == len(settings)


@pytest.mark.parametrize("other", [{"std": 0.3}, {"views": "latent"}, {"samples": 65}])
def test_encoders_that_differ_have_other_names(make_setting, other):
    assert Cell(make_setting(), 0).name != Cell(make_setting(**other), 0).name
    assert Cell(make_setting(), 0).name != Cell(make_setting(), 1).name
