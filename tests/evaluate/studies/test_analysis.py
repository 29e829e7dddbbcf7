import dataclasses

import numpy as np
import pytest

from genrep.evaluate.studies.analysis import MEAN, analyse
from genrep.evaluate.studies.catalogue import Scale, scaling, std
from genrep.evaluate.studies.record import MEASURES, TELLING
from genrep.evaluate.studies.study import Contrast


def rights(*counts, of=400):
    """For each seed the same easy images, so many of which are right."""
    return [np.arange(of) < count for count in counts]


def finish_all(study, records, finish, facts):
    """Records for all cells that turn out to be needed; ``facts`` of a cell."""
    while missing := [cell for cell in study.cells(records) if cell not in records]:
        for cell in missing:
            finish(cell, **facts(cell))


def test_a_difference_is_paired_by_seed_and_image(study, records, finish):
    """Seeds lie 20 points apart, and on each the first is right on four images more of 400."""
    of_seed = {0: 200, 1: 280, 2: 240}

    def facts(cell):
        more = 4 if cell.setting.views == "both" else 0
        return {"right": np.arange(400) < of_seed[cell.seed] + more, "held_out": 1 - cell.setting.source.std}

    finish_all(study, records, finish, facts)
    analysis = analyse(study, records)
    (difference,) = analysis.differences
    for measure in (*MEASURES, MEAN):
        found = difference.numbers[measure]
        assert found.by_seed == pytest.approx((0.01, 0.01, 0.01))
        assert found.interval[0] > 0
        assert found.interval[1] < 0.025
    assert analysis.rows[0].numbers[MEAN].by_seed == pytest.approx((0.5, 0.7, 0.6))
    assert analysis.reading[0].startswith("Primary contrast, 3 seeds: both minus T_x: 10 labels a class, clean +1.00 (")
    assert analysis.reading[0].endswith("The first is higher in 4 of 4.")


def test_seeds_that_only_one_row_has_are_left_out_of_a_difference(study, records, finish):
    for cell in study.cells(records):
        finish(cell, right=np.arange(400) < 200 + 40 * cell.seed)
    records.path(study.rows[0].cells(records)[0]).unlink()
    fresh = type(records)(records.folder.parent, data="bars")
    for cell in study.cells(fresh):
        if cell.setting.views == "both" and cell not in fresh:
            finish(cell, right=np.arange(400) < 200 + 40 * cell.seed)
    analysis = analyse(study, fresh)
    assert [len(found.cells) for found in analysis.rows] == [2, 3, 2]
    assert analysis.differences[0].numbers[MEAN].by_seed == (0, 0)
    assert analysis.missing


def test_encoders_that_are_alike_are_not_told_apart(study, records, finish):
    rng = np.random.Generator(np.random.PCG64(0))
    finish_all(study, records, finish, lambda cell: {"right": rng.random(400) < 0.8})
    assert analyse(study, records).reading[0].endswith("Not told apart from 0.")


def test_a_floor_above_every_encoder_is_said(study, records, finish):
    finish_all(study, records, finish, lambda cell: {"right": [1, 0, 0, 0, 0]})
    (told,) = [line for line in analyse(study, records).reading if "not show learning" in line]
    assert told.startswith(f"The floor raw pixels is above every encoder in: {'; '.join(MEASURES)}.")


def test_exploratory_differences_are_sorted_by_what_they_tell(study, records, finish):
    rng = np.random.Generator(np.random.PCG64(0))
    contrasts = (*study.contrasts, Contrast("T_z", "T_x"), Contrast("T_z", "both"))
    study = dataclasses.replace(study, contrasts=contrasts)

    def facts(cell):
        share = {"pixel": 0.5, "both": 0.8, "latent": 0.8}[cell.setting.views]
        return {"right": rng.random(2000) < share, "held_out": 1 - cell.setting.source.std}

    finish_all(study, records, finish, facts)
    primary, higher, neither = analyse(study, records).reading
    assert primary.endswith("The first is higher in 4 of 4.")
    assert higher.startswith(f"Exploratory, {MEAN}, the first is higher: T_z minus T_x +")
    assert neither.startswith(f"Exploratory, {MEAN}, not told apart from 0: T_z minus both ")
    assert neither.endswith(", 2 seeds.")


@pytest.mark.parametrize(
    ("peak", "told"),
    [
        (0.5, "best on held-out images at sigma 0.5"),
        (2.0, "that is an end of the range, so an inverse U was not seen."),
    ],
)
def test_an_inverse_u_is_told_from_a_slope(records, finish, peak, told):
    study = std(Scale())

    def facts(cell):
        away = abs(np.log(cell.setting.source.std / peak))
        return {"right": np.arange(2000) < 1600 - 200 * away, "held_out": 0.8 - 0.1 * away}

    finish_all(study, records, finish, facts)
    line = next(line for line in analyse(study, records).reading if line.startswith("T_z: "))
    assert told in line
    assert line.endswith(": an inverse U.") == (peak == 0.5)


def test_a_peak_that_one_end_reaches_too_is_no_inverse_u(records, finish):
    study = std(Scale())

    def facts(cell):
        strength = cell.setting.source.std
        return {"right": np.arange(2000) < 1600 - 400 * (strength < 0.5), "held_out": 0.8 - abs(strength - 0.5) / 10}

    finish_all(study, records, finish, facts)
    line = next(line for line in analyse(study, records).reading if line.startswith("T_z: "))
    assert line.endswith("above the strongest by +0.00 (+0.00 to +0.00): an inverse U is not shown.")


def test_choices_of_a_curve_are_those_of_held_out_images(records, finish):
    study = std(Scale())
    finish_all(
        study,
        records,
        finish,
        lambda cell: {
            "right": np.arange(100) < 40 * cell.setting.source.std,
            "held_out": 1 - cell.setting.source.std / 4,
        },
    )
    assert [curve.x[curve.best] for curve in analyse(study, records).curves] == [0.1, 0.1]


def test_scaling_tells_growth_from_flatness(records, finish):
    """T_z gains 5 points for ten times the samples, T_x nothing; seeds differ by some tenths of a point."""
    study = scaling(Scale(stds=(0.2, 0.5), class_stds=(0.5,)))
    rng = np.random.Generator(np.random.PCG64(1))

    def facts(cell):
        gain = 0.05 * np.log10(cell.setting.samples / 256) if cell.setting.views == "latent" else 0
        return {"right": np.arange(2000) < 2000 * (0.7 + gain + 0.002 * rng.normal()), "held_out": 0.5}

    finish_all(study, records, finish, facts)
    curves = {curve.group: curve.growth[MEAN] for curve in analyse(study, records).curves}
    slope, (low, high) = curves["SimCLR, T_z"].slope
    assert slope == pytest.approx(0.05, abs=0.01)
    assert low < 0.05 < high
    assert not curves["SimCLR, T_z"].flat
    assert curves["SimCLR, T_x"].flat
    assert set(curves) == {
        f"{method}, {views}" for method in ("SimCLR", "SupCon") for views in ("T_z", "T_x", "T_z + T_x")
    }


def test_the_mean_of_measures_is_that_of_those_that_tell(study, records, finish):
    finish_all(study, records, finish, lambda cell: {"right": [1, 1, 1, 0]})
    found = analyse(study, records).rows[0]
    assert found.numbers[MEAN].mean == pytest.approx(np.mean([found.numbers[each].mean for each in TELLING]))
