"""Searches against functions whose answer is known, and against their own interruption."""

import itertools
import math
import random

import pytest

from paribus.grid.search import Found, Trial, descending_etas, next_eta, outcome
from paribus.train.jax_grid.config import Bisection, Descending, GoldenSection


def carried_out(search, judged) -> list[Trial]:
    trials: list[Trial] = []
    while (eta := next_eta(search, trials)) is not None:
        trials.append(judged(eta))
        assert len(trials) < 200, "the search does not end"
    return trials


def stable_below(limit: float):
    return lambda eta: Trial(eta, eta <= limit, 1.0 if eta <= limit else math.inf)


@pytest.mark.parametrize("limit", [2.0**-11.9, 0.3, 1.0, 77.7, 2.0**11.9])
def test_bisection_encloses_the_largest_stable_eta_within_its_tolerance(limit: float) -> None:
    search = Bisection(tolerance_log2=0.125)
    trials = carried_out(search, stable_below(limit))
    found = outcome(search, trials)
    assert found.is_bracketed
    assert found.low <= limit < found.high
    assert math.log2(found.high / found.low) <= 0.125 + 1e-9
    assert len(trials) == 2 + math.ceil(math.log2(24 / 0.125))


def test_bisection_that_leaves_its_range_says_so() -> None:
    search = Bisection(low=1.0, high=8.0)
    everything, nothing = (outcome(search, carried_out(search, stable_below(limit))) for limit in (100.0, 0.1))
    assert everything == Found(8.0, 8.0, math.inf, False)
    assert nothing == Found(None, 1.0, 1.0, False)


@pytest.mark.parametrize(("best", "limit"), [(0.01, 0.1), (1.0, 1.3), (300.0, 2000.0), (2.0**-11.5, 1.0)])
def test_golden_section_finds_the_minimum_of_a_parabola_cut_off_by_instability(best: float, limit: float) -> None:
    def judged(eta: float) -> Trial:
        is_stable = eta <= limit
        return Trial(eta, is_stable, math.log2(eta / best) ** 2 if is_stable else math.inf)

    search = GoldenSection(tolerance_log2=0.25)
    trials = carried_out(search, judged)
    found = outcome(search, trials)
    assert found.eta is not None
    assert abs(math.log2(found.eta / best)) <= 0.25
    assert len(trials) == 2 + math.ceil(math.log(0.25 / 24) / math.log((math.sqrt(5) - 1) / 2)) - 1


def test_a_descent_stops_three_decades_below_the_first_stable_eta() -> None:
    search = Descending(high=1e6, low=1e-13, per_decade=2, decades=3.0)
    etas = [trial.eta for trial in carried_out(search, stable_below(2.0))]
    assert etas[0] == 1e6
    assert etas[-1] == pytest.approx(1e-3)
    assert etas == descending_etas(search)[: len(etas)]
    assert outcome(search, carried_out(search, stable_below(2.0))).eta == 1.0


def test_a_descent_stops_after_so_many_stable_etas_in_a_row() -> None:
    search = Descending(high=1e3, low=1e-6, per_decade=1, decades=None, depth=3)
    is_stable = {1e3: False, 1e2: True, 1e1: False}  # a stable island does not count
    trials = carried_out(search, lambda eta: Trial(eta, is_stable.get(eta, True), 1.0))
    assert [trial.eta for trial in trials] == pytest.approx([1e3, 1e2, 1e1, 1.0, 0.1, 0.01])


def test_descending_grid_has_both_ends_and_even_steps() -> None:
    etas = descending_etas(Descending(high=1e13, low=1e-13, per_decade=2))
    assert (len(etas), etas[0], etas[-1]) == (53, 1e13, pytest.approx(1e-13))
    ratios = [math.log10(a / b) for a, b in itertools.pairwise(etas)]
    assert ratios == pytest.approx([0.5] * 52)


@pytest.mark.parametrize("search", [Bisection(), GoldenSection(), Descending()])
def test_a_search_goes_on_from_any_of_its_prefixes(search) -> None:
    judged = stable_below(0.7)
    trials = carried_out(search, judged)
    cut = random.Random(0).randrange(len(trials))
    assert next_eta(search, trials[:cut]) == trials[cut].eta


@pytest.mark.parametrize("kind", [Bisection, GoldenSection, Descending])
def test_a_search_whose_ends_are_swapped_is_refused(kind) -> None:
    with pytest.raises(ValueError, match="low: 4 is not below high: 1"):
        kind(low=4.0, high=1.0)
