"""Oracles: printed tables of Student's t, coverage on simulated data, closed forms."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from paribus.data.generators import generator
from paribus.errors import DataError
from paribus.evals.statistics import (
    bootstrap,
    entropy,
    ergodic_ceiling,
    ks_normal,
    over_seeds,
    paired_difference,
    shared_windows,
    student_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("freedom", "printed"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (30, 2.0423), (120, 1.9799)],
)
def test_the_t_quantile_is_that_of_printed_tables(freedom, printed):
    assert student_quantile(0.975, freedom) == pytest.approx(printed, abs=6e-5)


def test_the_interval_over_seeds_is_mean_and_t_times_standard_error():
    interval = over_seeds([1.0, 2.0, 6.0])
    half = 4.30265 * math.sqrt(7.0) / math.sqrt(3)
    assert interval == pytest.approx((3.0, 3.0 - half, 3.0 + half), rel=1e-5)


def test_one_seed_claims_no_interval():
    interval = over_seeds([2.5])
    assert interval.mean == 2.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_the_bootstrap_interval_has_the_width_of_the_normal_theory_and_ignores_differences_between_strata():
    draw = generator(0, "test")
    strata = np.repeat([0, 1], [400, 100])
    values = draw.normal(size=500) + 50 * strata
    interval = bootstrap(values, strata)
    theory = math.sqrt(values[:400].var() / 400 + values[400:].var() / 100) / 2
    assert interval.mean == pytest.approx((values[:400].mean() + values[400:].mean()) / 2, rel=1e-12)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * theory, rel=0.06)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    draw = generator(1, "test")
    hits = 0
    for _ in range(200):
        interval = bootstrap(draw.exponential(size=80), np.zeros(80))
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99  # nominal .95; skew costs the percentile interval about a percent


def test_the_bootstrap_depends_on_its_seed_and_on_nothing_else():
    values, strata = generator(2, "test").normal(size=60), np.arange(60) % 3
    np.random.seed(1)
    first = bootstrap(values, strata, seed=4)
    assert first == bootstrap(values, strata, seed=4)
    assert first != bootstrap(values, strata, seed=5)


def test_pairing_removes_the_difficulty_of_the_windows():
    draw = generator(3, "test")
    difficulty = draw.normal(3, 1, 300)
    a, b = difficulty + draw.normal(0.1, 0.01, 300), difficulty + draw.normal(0, 0.01, 300)
    paired = paired_difference(a, b, np.zeros(300))
    assert paired.low < 0.1 < paired.high
    assert paired.high - paired.low < 0.01
    assert paired.mean == pytest.approx(a.mean() - b.mean(), abs=1e-12)


def test_equal_models_differ_by_exactly_nothing():
    losses = generator(4, "test").normal(size=50)
    assert paired_difference(losses, losses, np.arange(50) % 5) == (0, 0, 0)


def test_windows_pair_by_id_in_any_order_and_repeats_pair_in_order():
    a, b = [7, 3, 3, 9], [3, 8, 7, 3]
    rows_a, rows_b = shared_windows(a, b)
    assert rows_a.tolist() == [0, 1, 2]
    assert rows_b.tolist() == [2, 0, 3]


def test_models_without_a_common_window_are_not_compared():
    with pytest.raises(DataError, match="share no window"):
        shared_windows([1, 2], [3, 4])


def test_the_ceiling_is_that_of_the_specification():
    assert [round(ergodic_ceiling(np.ones(k), 99), 3) for k in (2, 5, 11)] == [0.007, 0.016, 0.024]
    assert entropy([3.0, 1.0, 0.0]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


@pytest.mark.parametrize(
    ("n", "distance", "p"),  # Miller (1956), Journal of the American Statistical Association 51, table 1
    [(10, 0.40925, 0.05), (10, 0.48893, 0.01), (20, 0.29408, 0.05), (20, 0.35241, 0.01), (100, 0.13403, 0.05)],
)
def test_a_distance_from_the_normal_law_has_another_chance(n, distance, p):
    """Values at the quantiles (i - 1/2) / n are 1/(2n) away; moved up by some probability they are that much further."""
    probabilities = np.clip((np.arange(n) + 0.5) / n + distance - 0.5 / n, 1e-12, 1 - 1e-12)
    found, chance = ks_normal([NormalDist().inv_cdf(value) for value in probabilities])
    assert found == pytest.approx(distance, abs=1e-9)
    assert chance == pytest.approx(p, abs=5e-4)


def test_a_share_gets_another_interval():
    """Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
