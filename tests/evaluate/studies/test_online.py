import pytest

from genrep.evaluate.studies.bootstrap import Estimate
from genrep.evaluate.studies.catalogue import Scale
from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.cost import Rates
from genrep.evaluate.studies.online import Budget, break_even, online

# half a millisecond an image, half a second an update of 512 images
RATES = Rates(
    image_s=5e-4, image_bytes=3000, update_image_s=0.5 / 512, start_s=2, probes_s=20, floors_s=100, run_bytes=4_000_000
)


def test_a_fixed_set_has_the_time_that_rendering_would_have_taken():
    budget = Budget.of(Scale(), RATES)
    assert budget.samples == 400 * 256
    assert budget.slowdown == pytest.approx(1 + 102.4 / 200)  # 102,400 samples of 1 ms; 400 updates of half a second
    assert budget.steps_in_equal_time(2400) == 600  # 100 s saved are 200 updates more
    assert budget.steps_in_equal_time(budget.samples) == 400


def test_fixed_sets_are_prefixes_of_the_fresh_one(records, finish):
    study = online(Scale(stds=(0.2,), sizes=(1024, 4096, 10**6)), RATES)
    settings = {row.name: row.chosen(records) for row in study.rows}
    fresh = settings["SimCLR, T_z + T_x, fresh"]
    assert (fresh.samples, fresh.steps, fresh.passes) == (102_400, 400, 1)
    fixed = settings["SimCLR, T_z + T_x, 4,096 fixed, equal updates"]
    assert (fixed.samples, fixed.steps, fixed.source) == (4096, 400, fresh.source)
    longer = settings["SimCLR, T_z + T_x, 4,096 fixed, equal time"]
    assert (longer.samples, longer.steps) == (4096, 600)
    assert not [name for name in settings if "1,000,000" in name]  # more than the fresh ones
    names = [Cell(setting, 0).name for setting in settings.values()]
    assert len(set(names)) == len(names)


def differences(of_size):
    """Fresh minus fixed for T_z + T_x at equal updates: size -> (low, high)."""
    return {
        ("SimCLR, T_z + T_x, fresh", f"SimCLR, T_z + T_x, {size:,} fixed, equal updates"): Estimate(
            sum(ends) / 2, ends, (), 0
        )
        for size, ends in of_size.items()
    }


@pytest.mark.parametrize(
    ("of_size", "where"),
    [
        ({1024: (0.01, 0.03), 4096: (-0.005, 0.015), 16384: (-0.01, 0.01)}, "at 4,096 fixed samples"),
        ({1024: (-0.03, -0.01), 4096: (-0.01, 0.01), 16384: (-0.01, 0.01)}, "at 1,024 fixed samples"),
        ({1024: (0.01, 0.03), 4096: (0.01, 0.02), 16384: (0.001, 0.01)}, "above 16,384 fixed samples"),
    ],
)
def test_the_break_even_is_the_smallest_set_that_is_not_behind(of_size, where):
    (line,) = break_even(differences(of_size), sizes=tuple(of_size))
    assert line.startswith(f"Break-even, T_z + T_x, equal updates: {where};")
