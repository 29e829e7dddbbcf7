import pytest

from genrep.evaluate.studies.catalogue import STUDIES, Scale
from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.record import Records
from genrep.evaluate.studies.study import CHOICE_SEEDS, Row


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
    assert {(setting.steps, setting.images, setting.images_per_sample) for setting in settings} == {(400, 512, 2)}
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


@pytest.mark.parametrize("other", [{"std": 0.3}, {"views": "latent"}, {"samples": 65}])
def test_encoders_that_differ_have_other_names(make_setting, other):
    assert Cell(make_setting(), 0).name != Cell(make_setting(**other), 0).name
    assert Cell(make_setting(), 0).name != Cell(make_setting(), 1).name
