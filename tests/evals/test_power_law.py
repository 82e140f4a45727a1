"""Oracles: the parameters that made the curve, and the coverage of the limits on simulated noise."""

import numpy as np
import pytest

from paribus.data.generators import generator
from paribus.evals.power_law import fit_power_law

T = np.arange(1, 101)


@pytest.mark.parametrize("b", [0.05, 0.26, 0.43, 1.0, 3.0])
@pytest.mark.parametrize("a", [1.7, -0.4])
def test_a_noiseless_law_is_recovered(a, b):
    fit = fit_power_law(T, 2.5 + a * T**-b, np.full(100, 0.001))
    assert (fit.c.mean, fit.a.mean, fit.b.mean) == pytest.approx((2.5, a, b), rel=2e-5)
    assert fit.at(T) == pytest.approx(2.5 + a * T**-b, rel=1e-7)
    assert fit.is_determined
    assert fit.misfit < 1e-6


def test_the_limits_cover_the_truth_as_often_as_they_say():
    draw, error = generator(0, "test"), 0.02 * np.linspace(1, 2, 100)
    hits = np.zeros(3)
    for _ in range(150):
        fit = fit_power_law(T, 3 + 1.2 * T**-0.6 + error * draw.normal(size=100), error)
        hits += [x.low <= truth <= x.high for x, truth in zip(fit[:3], (3, 1.2, 0.6), strict=True)]
        assert 0.5 < fit.misfit < 1.6
    assert (hits / 150 >= 0.90).all()
    assert (hits / 150 <= 0.995).all()


def test_noisy_positions_weigh_less():
    loss, error = 2 + T**-0.5, np.full(100, 0.01)
    loss[40:] += 5
    error[40:] = 1e6
    assert fit_power_law(T, loss, error).b.mean == pytest.approx(0.5, abs=1e-3)


def test_a_law_that_does_not_hold_widens_its_limits():
    wave = 0.2 * np.sin(T)
    honest, tiny = fit_power_law(T, 2 + T**-0.5 + wave, np.full(100, 0.15)), np.full(100, 0.0015)
    misfit = fit_power_law(T, 2 + T**-0.5 + wave, tiny)
    assert misfit.misfit > 1000
    assert misfit.b.high - misfit.b.low == pytest.approx(honest.b.high - honest.b.low, rel=0.2)


@pytest.mark.parametrize(("noise", "is_determined"), [(0.02, True), (0.6, False)])
def test_an_exponent_is_determined_when_other_samples_give_nearly_the_same(noise, is_determined):
    """Oracle: the spread of b over fresh samples of the same law, which a reader of one fit cannot see."""
    draw = generator(0, "test")
    law = 3 + 1.2 * T**-0.6
    fits = [fit_power_law(T, law + noise * draw.normal(size=100), np.full(100, noise)) for _ in range(40)]
    low, high = np.quantile([fit.b.mean for fit in fits], [0.025, 0.975])
    assert (high - low < 0.6) == is_determined
    assert np.mean([fit.is_determined for fit in fits]) == pytest.approx(float(is_determined), abs=0.1)
    assert all(fit.b.low > 0 for fit in fits if fit.is_determined)


def test_a_flat_curve_determines_no_exponent():
    fit = fit_power_law(T, np.full(100, 2.0), np.full(100, 0.01))
    assert fit.c.mean == pytest.approx(2.0)
    assert not fit.is_determined


@pytest.mark.parametrize(
    ("position", "error"), [([1, 2, 3], [1, 1, 1]), ([0, 1, 2, 3], [1, 1, 1, 1]), ([1, 2, 3, 4], [1, 1, 0, 1])]
)
def test_curves_that_cannot_be_fitted_are_refused(position, error):
    with pytest.raises(ValueError, match="at least 4 positions"):
        fit_power_law(position, np.ones(len(position)), error)
