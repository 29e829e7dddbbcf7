import numpy as np
import pytest

from genrep.evaluate.studies.laws import fit, growth

SIZES = np.array([250.0, 500, 1000, 2000, 4000, 8000, 16000, 32000])


def planted(law, sizes, *, level=0.9, factor, exponent=0.0):
    return level + factor * np.log(sizes) if law == "logarithmic" else level - factor * sizes**-exponent


def simulated(truth, *, noise, seed):
    """Points with noise, and resamplings that are spread like the noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    means = truth + noise * rng.normal(size=truth.shape)
    return means, means + noise * rng.normal(size=(2000, len(truth)))


@pytest.mark.parametrize(
    ("law", "facts"),
    [
        ("logarithmic", {"level": 0.5, "factor": 0.03}),
        ("power", {"level": 1.0, "factor": 2.0, "exponent": 0.35}),
        ("saturating", {"level": 0.88, "factor": 3.0, "exponent": 0.5}),
    ],
)
def test_points_on_a_law_give_back_its_parameters(law, facts):
    fitted = fit(law, SIZES, planted(law, SIZES, **facts)[None], np.full(8, 0.001))
    assert fitted.level[0] == pytest.approx(facts["level"], abs=1e-3)
    assert fitted.factor[0] == pytest.approx(facts["factor"], rel=1e-2)
    assert fitted.exponent[0] == pytest.approx(facts.get("exponent", 0), abs=0.0025)
    assert fitted.misfit[0] < 0.1


@pytest.mark.parametrize("law", ["power", "saturating"])
def test_a_planted_exponent_lies_in_its_band(law):
    truth = planted(law, SIZES, level={"power": 1.0, "saturating": 0.88}[law], factor=3.0, exponent=0.4)
    held = 0
    for seed in range(40):
        found = growth(SIZES, *simulated(truth, noise=0.003, seed=seed))
        low, high = found.exponents[law][1]
        held += low <= 0.4 <= high
    assert held >= 34  # 95 % of 40 are 38; 34 or fewer has a probability of 3 %


def test_the_law_that_was_planted_is_named():
    for law, facts in (
        ("logarithmic", {"level": 0.3, "factor": 0.05}),
        ("saturating", {"level": 0.88, "factor": 20.0, "exponent": 0.7}),
    ):
        found = growth(SIZES, *simulated(planted(law, SIZES, **facts), noise=0.002, seed=1))
        assert found.law == law
        assert f"the law is {law}" in found.said()


def test_too_few_points_identify_no_law():
    sizes = SIZES[[0, 4, 7]]
    for law, facts in (
        ("saturating", {"level": 0.88, "factor": 20.0, "exponent": 0.7}),
        ("logarithmic", {"level": 0.3, "factor": 0.05}),  # the power law is out, yet one degree of freedom is no check
    ):
        found = growth(sizes, *simulated(planted(law, sizes, **facts), noise=0.0005, seed=1))
        assert found.law is None
        assert not found.supported
        assert "law not identified" in found.said()
        assert "too few points to test a law" in found.said()


def test_points_with_much_noise_identify_no_law():
    truth = planted("logarithmic", SIZES, level=0.7, factor=0.01)
    found = growth(SIZES, *simulated(truth, noise=0.01, seed=2))
    assert found.law is None
    assert "law not identified" in found.said()
    assert "the points do not tell the laws apart" in found.said()


def test_a_curve_with_a_step_follows_no_law_and_that_is_said():
    step = np.repeat([0.56, 0.68], 4)
    found = growth(SIZES, *simulated(step, noise=0.003, seed=6))
    assert found.law is None
    assert not found.supported
    assert found.said().endswith("misses them by more than their noise).")
    assert "no law describes the points" in found.said()


def test_points_that_do_not_grow_are_flat_and_promise_nothing():
    found = growth(SIZES, *simulated(np.full(8, 0.84), noise=0.004, seed=3))
    assert found.flat
    assert not found.supported
    assert found.said().startswith("flat within the interval: ")


def test_the_next_point_of_a_logarithmic_law_is_where_it_must_be():
    truth = planted("logarithmic", SIZES, level=0.3, factor=0.05)
    found = growth(SIZES, *simulated(truth, noise=0.001, seed=4))
    exact = 32000 * np.exp(0.01 / 0.05)
    size, (low, high) = found.next_size
    assert low <= exact <= high
    assert size == pytest.approx(exact, rel=0.05)
    assert found.supported


def test_a_law_that_never_gets_there_says_so():
    truth = planted("saturating", SIZES, level=0.85, factor=200.0, exponent=1.2)  # within 0.1 points of its end
    found = growth(SIZES, *simulated(truth, noise=0.0005, seed=5))
    assert found.law == "saturating"
    assert found.next_size[0] == np.inf
    assert not found.supported
    assert "more than 10^12 samples" in found.said()
