import base64
import json
import zlib

import numpy as np
import pytest

from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.record import MEASURES, MOST_IMAGES, Records, pack
from genrep.shards.errors import DataError


def test_what_was_right_on_each_test_image_survives(records, finish, make_setting):
    right = np.random.Generator(np.random.PCG64(0)).integers(0, 2, 1000)
    cell = Cell(make_setting(), 0)
    finish(cell, right=right)
    assert (records[cell].right(MEASURES[0]) == right).all()
    assert records[cell].top1(MEASURES[0]) == pytest.approx(right.mean())
    assert records[cell].floors(MEASURES[0]) == {"floor: raw pixels": 0.25}


def test_ten_thousand_counts_of_fifty_draws_stay_small():
    counts = np.random.Generator(np.random.PCG64(0)).binomial(50, 0.7, 10_000)
    assert len(pack(counts, draws=50)["counts"]) < 10_000


def test_a_damaged_record_is_refused_by_name(records, finish, make_setting):
    cell = Cell(make_setting(), 0)
    finish(cell)
    path = records.path(cell)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"seed0.json cannot be read.*remove it to have this cell done again"):
        records[cell]


def test_records_of_other_data_are_refused(tmp_path, finish, make_setting):
    cell = Cell(make_setting(), 0)
    finish(cell)
    with pytest.raises(DataError, match=r"was measured on bars, not stripes: choose another --out, or that --data"):
        Records(tmp_path, data="stripes")[cell]


def test_counts_that_would_fill_the_memory_are_refused_before_they_do(records, finish, make_setting):
    cell = Cell(make_setting(), 0)
    finish(cell)
    path = records.path(cell)
    content = json.loads(path.read_text())
    bomb = zlib.compress(bytes(MOST_IMAGES + 1), 9)
    for measure in content["right"]:
        content["right"][measure]["counts"] = base64.b64encode(bomb).decode()
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"counts of more than 16,777,216 images.*remove it"):
        records[cell]
