"""Every law finds the exponent that its runs were made with, refuses another, and says when it cannot tell."""

import math

import numpy as np
import polars as pl
import pytest

from paribus.studies.batch_size import laws
from paribus.studies.batch_size.laws import law as law_module
from paribus.studies.batch_size.laws import optimum
from paribus.studies.batch_size.laws.batch import fit_noise
from studies.batch_size.tables import FIXED, evaluated, sweep, valley

GRID = (2.0 ** np.arange(-12, 12.5, 0.5)).tolist()
RICH = (10.0 ** np.arange(1, 4.5, 0.5)).tolist()
NOTHING = evaluated(sweep(lambda settings, seed: 1.0, 1))


def only(found, name):
    chosen = [one for one in found if one.name == name]
    assert len(chosen) == 1, [one.quantity for one in found]
    return chosen[0]


# --- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_seeds", "num_points"), [(4, 5), (8, 4)])
def test_an_interval_misses_the_truth_more_often_than_it_says(num_seeds, num_points):
    """95 % of 300 intervals cover the slope; the binomial's own spread is 1.3 points, and 3 of it are allowed."""
    rng = np.random.default_rng(0)
    x = np.arange(num_points, dtype=float)
    found = [
        law_module.slope(x, 2 * x + rng.normal(0, 0.3, (num_seeds, num_points)), seed=trial) for trial in range(300)
    ]
    covered = np.mean([one.low <= 2 <= one.high for one in found])
    assert abs(covered - 0.95) < 0.039, covered


def test_one_seed_decides_a_law_by_the_scatter_of_its_own_points():
    """Four points on a line that is off theory's by what one seed's teacher does to all of them."""
    x = np.arange(4.0)
    found = law_module.slope(x, [0.1 * x + [0.001, -0.001, -0.001, 0.001]])
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    law = law_module.judged("n", "q", found, 0.0, (-0.06, 0.06), "4 widths, 1 seed")
    assert (law.verdict, law.evidence) == ("inconclusive", "4 widths, 1 seed: no interval, so no verdict")


def test_an_interval_depends_on_anything_but_the_numbers():
    rows = np.random.default_rng(1).normal(size=(4, 5))
    assert law_module.slope(range(5), rows) == law_module.slope(range(5), rows)


def test_borders_that_fall_on_the_same_grid_points_have_no_error():
    """The truth lies anywhere between two etas: 95 % of the intervals about the rounded slopes cover it."""
    rng = np.random.default_rng(0)
    x = np.arange(7, dtype=float)
    covered = []
    for _ in range(400):
        borders = (
            0.66 * x + rng.uniform(0, 1) + np.zeros((4, 1))
        )  # all seeds alike, so nothing but the rounding differs
        found = law_module.slope(x, np.floor(borders / 0.5) * 0.5 + 0.25, resolution=0.5)
        covered.append(found.low <= 0.66 <= found.high)
    assert np.mean(covered) >= 0.95


def test_a_seed_without_an_answer_spoils_the_others_or_makes_one_up():
    rows = [[0.0, 1.0, 2.0], [0.0, math.nan, 2.0], [0.1, 1.0, 2.1]]
    assert law_module.slope(range(3), rows).mean == pytest.approx(1.0)
    assert law_module.resting_on(rows, "gammas", 3) == "3 gammas, 2 seeds (1 seed of 3 undetermined)"
    assert math.isnan(law_module.slope(range(3), rows[1:2]).mean)
    assert (
        law_module.judged("n", "q", law_module.slope(range(3), rows[1:2]), 1.0, (0, 2), "e").verdict == "inconclusive"
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.9, 1.1, "holds"),
        (0.7, 1.1, "inconclusive"),
        (0.5, 0.7, "fails"),
        (1.3, 1.4, "fails"),
        (math.nan, math.nan, "inconclusive"),
    ],
)
def test_a_verdict_says_more_than_the_interval(low, high, verdict):
    found = law_module.Interval(1.0 if math.isnan(low) else (low + high) / 2, low, high)
    assert law_module.judged("n", "q", found, 1.0, (0.8, 1.2), "e").verdict == verdict


# --- the best and the largest eta --------------------------------------------------------------------------------------


def etas(outcome):
    return sweep(lambda settings, seed: outcome(math.log2(settings["train.eta"])), 1, train__eta=GRID)


@pytest.mark.parametrize("truth", [-3.0, -2.9, -2.76, 1.3])
def test_the_best_eta_sits_on_the_grid_or_ignores_the_curvature(truth):
    assert optimum.eta_star(etas(lambda eta: valley(eta, truth, 5))) == pytest.approx(truth, abs=1e-9)


def test_the_best_eta_is_read_off_a_grid_that_does_not_show_it():
    assert math.isnan(optimum.eta_star(etas(lambda eta: valley(eta, -20, 5))))  # falls to the low end
    assert math.isnan(optimum.eta_star(etas(lambda eta: valley(eta, 20, 30))))  # and to the high one
    assert optimum.eta_star(etas(lambda eta: valley(eta, 3, 2))) == 1.5  # the border cuts the valley off


def test_a_trial_between_two_grid_points_moves_the_best_eta():
    uneven = etas(lambda eta: valley(eta, -2.76, 5)).filter(~pl.col("train.eta").is_in([2.0**-2.5, 2.0**-1.5]))
    assert optimum.eta_star(uneven) == pytest.approx(-2.76, abs=1e-9)


def test_the_border_is_misplaced():
    assert optimum.eta_max(etas(lambda eta: valley(eta, -3, 2.2))) == 2.25
    assert math.isnan(optimum.eta_max(etas(lambda eta: valley(eta, -3, 30, 0.001))))
    assert math.isnan(optimum.eta_max(etas(lambda eta: np.inf)))


def test_a_run_that_hardly_moved_or_whose_units_died_counts_for_the_border():
    assert optimum.eta_max(etas(lambda eta: 1.01 if eta < -9 else valley(eta, -3, 2.2))) == 2.25
    assert optimum.eta_max(etas(lambda eta: 0.999 if eta > 2 else valley(eta, -3, 20))) == 2.25


# --- richness ----------------------------------------------------------------------------------------------------------


def over_gamma(gammas, star, border, scaled, num_seeds=4, noise=0.05, grid=GRID):
    rng = np.random.default_rng(0)
    shift = {(gamma, seed): rng.normal(0, noise) for gamma in gammas for seed in range(num_seeds)}

    def outcome(settings, seed):
        gamma = settings["model.gamma"]
        moved = shift[gamma, seed] + 0.3 * seed
        eta = math.log2(settings["train.eta"])
        eta += math.log2(gamma) * (2 if gamma <= 1 else 2 / 3) if scaled else 0
        return valley(eta, star(gamma) + moved, border(gamma) + moved)

    etas_ = [[eta] for eta in grid]
    return sweep(
        outcome, num_seeds, model__gamma=gammas, train__eta=[eta for (eta,) in etas_], train__scale_by_gamma=[scaled]
    )


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("exponent", "verdict"), [(2.0, "holds"), (1.5, "fails")])
def test_the_lazy_slope_is_wrong(scaled, exponent, verdict):
    gammas = [1e-2, 10**-1.5, 1e-1]
    grid = (2.0 ** np.arange(-20, 12.5, 0.5)).tolist()
    runs = over_gamma(
        gammas, lambda g: exponent * math.log2(g), lambda g: exponent * math.log2(g) + 3, scaled, grid=grid
    )
    found = only(laws.measure(runs, NOTHING), "lazy: η⋆")
    assert (found.theory, found.verdict) == (2.0, verdict)
    assert found.low <= exponent <= found.high


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("exponent", "verdict"), [(2 / 3, "holds"), (1.0, "fails"), (0.4, "fails")])
def test_the_rich_slope_is_wrong(scaled, exponent, verdict):
    grid = (2.0 ** np.arange(-8, 16, 0.25)).tolist()
    runs = over_gamma(
        RICH, lambda g: -4 + exponent * math.log2(g), lambda g: exponent * math.log2(g), scaled, grid=grid
    )
    found = only(laws.measure(runs, NOTHING), "rich: η_max")
    assert found.theory == pytest.approx(2 / 3)
    assert found.verdict == verdict
    assert found.low <= exponent <= found.high


def test_a_border_that_the_sweep_does_not_reach_gets_a_number():
    runs = over_gamma(RICH, lambda g: 12, lambda g: 100, True)
    found = only(laws.measure(runs, NOTHING), "rich: η_max")
    assert found.verdict == "inconclusive"
    assert math.isnan(found.estimate)


def test_depths_share_a_slope():
    runs = over_gamma(RICH, lambda g: -4, lambda g: 1, True)
    both = pl.concat([runs, runs.with_columns(pl.lit(2).cast(pl.Int64).alias("model.depth"))])
    assert [one.theory for one in laws.rich_border(both)] == pytest.approx([2 / 3, 1.0])


@pytest.mark.parametrize(("power", "spread", "verdict"), [(-2.0, 0.0, "holds"), (-1.99, 0.046, "fails")])
def test_the_lazy_sharpness_depends_on_gamma(power, spread, verdict):
    runs = sweep(lambda settings, seed: 0.1, model__gamma=[1e-4, 1e-3, 1e-2])
    evaluations = evaluated(
        runs, sharpness=lambda row: {0: (1 + row["seeds.data"]) * row["model.gamma"] ** power, 9: 1}
    )
    found = only(laws.measure(runs, evaluations), "lazy: sharpness")
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(spread, abs=1e-3)


@pytest.mark.parametrize(("power", "verdict"), [(-2 / 3, "holds"), (-0.4, "fails"), (-1.0, "fails")])
def test_the_rich_sharpness_has_another_slope(power, verdict):
    runs = sweep(lambda settings, seed: 0.1, model__gamma=RICH)
    rng = np.random.default_rng(0)
    evaluations = evaluated(
        runs, sharpness=lambda row: {0: 5.0, 1000: row["model.gamma"] ** power * 2 ** rng.normal(0, 0.1)}
    )
    found = only(laws.measure(runs, evaluations), "rich: sharpness")
    assert found.verdict == verdict
    assert found.low <= power <= found.high


@pytest.mark.parametrize(("leak", "verdict"), [(0.0, "holds"), (0.05, "fails")])
def test_weights_move_with_more_than_tau(leak, verdict):
    gammas = [10.0, 100.0, 1000.0, 10000.0]
    runs = sweep(lambda s, seed: 0.1 if s["train.eta"] == 0.01 * s["model.gamma"] else 0.2, model__gamma=gammas,
                 train__eta=[0.01 * gamma for gamma in gammas], train__scale_by_gamma=[False])  # fmt: skip
    runs = runs.filter(pl.col("train.eta") == 0.01 * pl.col("model.gamma"))

    def change(row):
        tau = {step: row["train.eta"] * step / row["model.gamma"] for step in (25, 50)}
        return {
            step: t * (1 + leak * math.log10(row["model.gamma"])) * (1 + row["seeds.data"]) for step, t in tau.items()
        }

    found = laws.measure(runs, evaluated(runs, weight_change__W1=change))
    assert [one.name for one in found] == ["rich: τ collapse"] * 2
    assert {one.verdict for one in found} == {verdict}


# --- batch size --------------------------------------------------------------------------------------------------------

BATCHES = [2**power for power in range(12)]


def over_batch(star, num_seeds=4, noise=0.05, **more):
    rng = np.random.default_rng(0)
    shift = {(size, seed): rng.normal(0, noise) for size in BATCHES for seed in range(num_seeds)}

    def outcome(settings, seed):
        size = settings["train.batch_size"]
        moved = star(size) + shift[size, seed] + 0.2 * seed
        return valley(math.log2(settings["train.eta"]), moved, moved + 3)

    fixed = {key.replace(".", "__"): [value] for key, value in (FIXED | more).items()}
    return sweep(outcome, num_seeds, train__batch_size=BATCHES, train__eta=GRID, **fixed)


def test_the_noise_scale_of_the_best_eta_is_wrong():
    runs = over_batch(lambda size: -1 - math.log2(1 + 240 / size))
    found = laws.measure(runs, NOTHING)
    small, large = [one for one in found if one.name == "batch size: η⋆"]
    noise, misfit = [one for one in found if one.name == "batch size: saturation"]
    assert [one.verdict for one in (small, large, noise, misfit)] == ["holds"] * 4
    assert noise.low <= 240 <= noise.high
    assert noise.estimate == pytest.approx(240, rel=0.15)


def test_a_best_eta_that_grows_as_the_root_passes_for_linear():
    found = laws.measure(over_batch(lambda size: -6 + math.log2(size) / 2), NOTHING)
    small, large = [one for one in found if one.name == "batch size: η⋆"]
    assert (small.verdict, large.verdict) == ("fails", "holds")
    assert small.low <= 0.5 <= small.high
    assert [one.verdict for one in found if one.name == "batch size: saturation"][1] == "fails"


def test_the_fit_finds_another_noise_scale_than_a_direct_search():
    batch = np.log2(BATCHES)
    log2_noise, rms = fit_noise(batch, 3 - np.log2(1 + 300 / 2**batch))
    assert (2**log2_noise, rms) == (pytest.approx(300, rel=0.01), pytest.approx(0, abs=0.01))


def test_fixed_time_is_mixed_with_fixed_data():
    fixed = over_batch(lambda size: -1 - math.log2(1 + 240 / size))
    time = sweep(lambda s, seed: 0.5, train__batch_size=BATCHES, train__eta=GRID)
    assert laws.eta_against_batch(pl.concat([time, fixed], how="diagonal_relaxed")) == laws.eta_against_batch(fixed)
    assert laws.measure(time, NOTHING) == []


def test_several_passes_are_held_against_the_law_of_one():
    assert laws.measure(over_batch(lambda size: -1, **{"train.budget.epochs": 5}), NOTHING) == []


def at_one_temperature(runs):
    return runs.filter(pl.col("train.eta") / pl.col("train.batch_size") == 2.0**-11)


@pytest.mark.parametrize(("leak", "apart", "verdicts"), [(0, 0.5, ["holds"] * 2), (0.02, 0.0, ["fails"] * 2)])
def test_a_collapse_in_temperature_is_missed_or_made_up(leak, apart, verdicts):
    def outcome(settings, seed):
        size = settings["train.batch_size"]
        loss = 0.05 * (1 + leak * math.log2(size)) * (1 + 0.3 * seed) if size <= 64 else 0.05 * (1 + 0.3 * seed)
        return loss * (1 + apart) if size == 2048 else loss

    fixed = {key.replace(".", "__"): [value] for key, value in FIXED.items()}
    runs = at_one_temperature(sweep(outcome, train__batch_size=[*BATCHES[:7], 2048], train__eta=GRID, **fixed))
    found = [one for one in laws.measure(runs, NOTHING) if one.name.startswith("temperature")]
    assert [one.verdict for one in found] == verdicts


def test_a_run_that_diverged_at_the_temperature_is_left_out_of_the_failure():
    fixed = {key.replace(".", "__"): [value] for key, value in FIXED.items()}
    sizes = [*BATCHES[:7], 2048]
    runs = sweep(lambda s, seed: np.inf if s["train.batch_size"] == 2048 else 0.05, train__batch_size=sizes,
                 train__eta=GRID, **fixed)  # fmt: skip
    assert laws.temperature_collapse(runs) == []
    last = laws.temperature_collapse(at_one_temperature(runs))[-1]
    assert (last.verdict, last.estimate) == ("holds", pytest.approx(math.log2(1 / 0.05)))


# --- width -------------------------------------------------------------------------------------------------------------

WIDTHS = [32, 64, 128, 256, 512]


def over_width(star, loss, parameterization):
    def outcome(settings, seed):
        width = settings["model.width"]
        eta = math.log2(settings["train.eta"])
        return valley(eta, star(width) + 0.1 * seed, 20) * loss(width)

    return sweep(outcome, model__width=WIDTHS, train__eta=GRID, model__parameterization=[parameterization])


def test_a_best_eta_that_stays_is_not_told_from_one_that_moves():
    stays, moves = (lambda n: -2), (lambda n: -math.log2(n) / 2)
    better, worse = (lambda n: 1 / n), (lambda n: n / 512)
    transfer, wider = laws.measure(over_width(stays, better, "mup"), NOTHING)
    assert (transfer.verdict, wider.verdict) == ("holds", "holds")
    transfer, wider = laws.measure(over_width(moves, worse, "mup"), NOTHING)
    assert (transfer.verdict, wider.verdict) == ("fails", "fails")
    assert transfer.estimate == pytest.approx(2.0, abs=0.01)
    assert [one.verdict for one in laws.measure(over_width(moves, better, "sp"), NOTHING)] == ["holds"]
    assert [one.verdict for one in laws.measure(over_width(stays, better, "sp"), NOTHING)] == ["fails"]


def moved(powers):
    rng = np.random.default_rng(0)
    return {
        f"coordinates__{layer}": lambda row, power=power: {
            0: 0.0,
            10: row["model.width"] ** power * 2 ** rng.normal(0, 0.02) * (1 + row["seeds.data"]),
        }
        for layer, power in powers.items()
    }


@pytest.mark.parametrize(
    ("parameterization", "optimizer", "rates", "powers", "verdicts"),
    [
        ("mup", "sgd", None, {"h1": 0, "h2": 0, "f": 0}, ["holds"] * 3),
        ("mup", "sgd", None, {"h1": 0, "h2": -0.5, "f": 0.2}, ["holds", "fails", "fails"]),
        ("mup", "adam", "per_layer", {"h1": 0, "h2": 0, "f": 0}, ["holds"] * 3),
        ("ntk", "sgd", None, {"h1": -0.5, "h2": 0, "f": 0}, ["holds", "fails"]),
        ("mup", "adam", "sqrt_width", {"h1": 0, "h2": 0.7, "f": 0.1}, ["holds"]),
        ("mup", "adam", "sqrt_width", {"h1": 0, "h2": 0, "f": 0.1}, ["fails"]),
    ],
)
def test_a_coordinate_check_lets_a_wrong_table_pass(parameterization, optimizer, rates, powers, verdicts):
    more = {"train__optimizer__kind": [optimizer], "train__optimizer__layer_rates": [rates]}
    widths = {"model__width": [64, 128, 256, 512], "model__parameterization": [parameterization]}
    runs = sweep(lambda settings, seed: 0.5, **widths, **more)
    found = laws.measure(runs, evaluated(runs, **moved(powers)))
    assert [one.verdict for one in found] == verdicts


# --- noise -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "holds"), (2.0, "fails")])
def test_an_estimate_of_the_noise_that_is_off_by_two_passes(factor, verdict):
    rng = np.random.default_rng(0)
    runs = sweep(lambda settings, seed: 0.5)
    evaluations = evaluated(
        runs,
        noise_scale=lambda row: {step: factor * (step + 10) * rng.normal(1, 0.03) for step in (0, 100, 1000)},
        noise_scale_exact=lambda row: {step: step + 10 for step in (0, 100, 1000)},
    )
    found = only(laws.measure(runs, evaluations), "noise scale")
    assert (found.verdict, found.low <= factor <= found.high) == (verdict, True)


def test_an_unfinished_sweep_has_laws():
    runs = over_batch(lambda size: -1).with_columns(state=pl.lit("running"))
    assert laws.measure(runs, NOTHING) == []
