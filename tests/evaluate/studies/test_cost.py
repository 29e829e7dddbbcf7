import json
from dataclasses import replace

import pytest

from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.cost import Rates, from_finished, measured_rates, predict
from genrep.shards.errors import DataError

RATES = Rates(image_s=0.001, image_bytes=100, update_image_s=0.01, start_s=2, probes_s=20, floors_s=100, run_bytes=5000)


def test_what_is_missing_costs_and_a_shared_set_costs_once(study, records, finish, tmp_path):
    cost = predict(study.cells(records), records, RATES, out=tmp_path)
    assert len(cost.cells) == 9
    assert set(cost.sets) == {f"fashion-null-gauss-{std}-64" for std in ("0.1", "0.2", "0.5")}
    assert set(cost.sets.values()) == {2 + 0.001 * 128}  # 64 anchors and their views
    assert set(cost.cells.values()) == {20 + 2 + 0.01 * 16 * 4}  # four updates of 16 images
    assert (cost.set_bytes, cost.run_bytes) == (3 * 128 * 100, 9 * 5000)
    assert cost.seconds(2) == pytest.approx(100 + (sum(cost.cells.values()) + sum(cost.sets.values())) / 2)
    (tmp_path / "cache" / "floors").mkdir(parents=True)
    assert predict(study.cells(records), records, RATES, out=tmp_path).floors == 0
    finish(study.cells(records)[0])
    (tmp_path / "sets" / "fashion-null-gauss-0.2-64").mkdir(parents=True)
    (tmp_path / "sets" / "fashion-null-gauss-0.2-64" / "manifest.json").write_text("{}")
    later = predict(study.cells(records), records, RATES, out=tmp_path)
    assert len(later.cells) == 8
    assert set(later.sets) == {"fashion-null-gauss-0.1-64", "fashion-null-gauss-0.5-64"}
    for cell in study.cells(records):
        if cell.setting.source.std == 0.1:
            finish(cell)
    last = predict(study.rows[1].choice_cells(), records, RATES, out=tmp_path)
    assert set(last.sets) == {"fashion-null-gauss-0.5-64"}  # what finished cells needed, nobody needs


def test_an_untrained_encoder_costs_its_probes_alone(make_setting, records, tmp_path):
    cell = Cell(replace(make_setting(), method="untrained"), 0)
    assert predict([cell], records, RATES, out=tmp_path).cells == {cell.name: 20}


def test_finished_cells_know_better_than_a_short_measurement(study, records, finish):
    assert from_finished(study, records, RATES) == RATES
    finish(study.cells(records)[0])  # 20 s of training with 2 s to start, 5 s of probes; four updates of 16 images
    assert from_finished(study, records, RATES) == replace(RATES, update_image_s=18 / 64, probes_s=5)


def test_rates_are_measured_once(make_setting, tmp_path):
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(RATES.__dict__))
    assert measured_rates(make_setting(), path, out=tmp_path, data="bars", device="cpu") == RATES
    path.write_text("{}")
    with pytest.raises(DataError, match=r"cost.json cannot be read .*: remove it to have the times measured again"):
        measured_rates(make_setting(), path, out=tmp_path, data="bars", device="cpu")
