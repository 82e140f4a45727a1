"""The study's analysis on whole sweeps whose every loss is known beforehand: what is compared with what, and what counts."""

import numpy as np
import polars as pl
import pytest
from fabricated import CATEGORIES, fabricate

from paribus.report.page import render
from paribus.studies.ergodic import analysis, verdicts
from paribus.studies.ergodic.study import build_report

PENALTY = 0.3  # nats that a model of 11 categories loses against each specialist


def difficulty(name):
    return 3 + 0.1 * CATEGORIES.index(name)


def paper_loss(sweep, run, active, name):
    """A specialist of the sweep `baselines` is .01 nats better than the sweep's own: one sees which was taken."""
    if name not in active:
        return difficulty(name) + 1
    cost = PENALTY * (len(active) - 1) / 10
    return difficulty(name) + {"text": cost, "baselines": -0.01, "shuffled": 0.0}[sweep]


@pytest.fixture(scope="module")
def paper_runs(tmp_path_factory):
    return fabricate(tmp_path_factory.mktemp("paper"), "paper", paper_loss)


@pytest.fixture(scope="module")
def paper(paper_runs):
    return analysis.read_all(paper_runs)


@pytest.fixture(scope="module")
def homes(paper):
    """(sweep, seed, the category of its own K = 1 run)."""
    return {(run.arm, run.seed, *run.active) for run in paper if run.arm != "baselines" and run.k == 1}


def test_a_shuffled_run_is_never_compared_with_a_specialist_of_the_original_categories(paper, homes):
    """What the shuffled deal calls cs.AI are other documents; its own K = 1 run is all that it can be compared with."""
    table = analysis.paired_differences(paper).filter(pl.col("band") == "all")
    shuffled = table.filter(pl.col("arm") == "shuffled")
    assert set(shuffled.select("arm", "seed", "category").iter_rows()) == {key for key in homes if key[0] == "shuffled"}
    assert shuffled["delta"].abs().max() < 1e-6


def test_a_baseline_serves_the_runs_of_every_seed(paper, homes):
    table = analysis.paired_differences(paper).filter(pl.col("band") == "all", pl.col("arm") == "text")
    for seed in (0, 1, 2):
        most = table.filter(pl.col("K") == 11, pl.col("seed") == seed)
        assert sorted(most["category"]) == list(CATEGORIES)
        for name, delta in most.select("category", "delta").iter_rows():
            partner = 0.0 if ("text", seed, name) in homes else -0.01
            assert delta == pytest.approx(PENALTY - partner, abs=1e-5)


def test_every_seed_counts_its_home_alone_towards_the_effect_of_k(paper):
    """On the home all seeds have a partner of their own; an average with the others would be of another quantity."""
    table = analysis.paired_by_k(paper, analysis.paired_differences(paper))
    for row in table.filter(pl.col("arm") == "text").iter_rows(named=True):
        assert (row["runs"], row["over"]) == (3, "seeds")
        assert row["delta"] == pytest.approx(PENALTY * (row["K"] - 1) / 10, abs=1e-5)
        assert row["delta_high"] - row["delta_low"] < 1e-4


def test_specialists_that_were_scored_on_other_windows_are_not_taken(paper, homes):
    other = {"windows": paper[0].record["windows"] | {"fingerprint": "another"}}
    moved = [run._replace(record={**run.record, **other}) if run.arm == "baselines" else run for run in paper]
    table = analysis.paired_differences(moved)
    assert set(table.select("arm", "seed", "category").iter_rows()) == homes


def control(found, noise=0.0, design="constant_unique"):
    """The verdict on the shuffled sweep, had it been of this design and its interval at K = 11 as wide as +-noise."""
    shuffled = [run._replace(data={"design": design}) if run.arm == "shuffled" else run for run in found]
    paired = analysis.paired_by_k(shuffled, analysis.paired_differences(shuffled))
    limits = ("delta_low", -noise), ("delta_high", noise)
    here = (pl.col("arm") == "shuffled") & (pl.col("K") == 11)
    shifts = [pl.when(here).then(pl.col(name) + by).otherwise(name).alias(name) for name, by in limits]
    (verdict,) = [v for v in verdicts.about_text(shuffled, paired.with_columns(shifts)) if "shuffled" in v.claim]
    return verdict


def test_the_control_is_judged_by_a_quarter_of_the_effect_that_needs_it(paper):
    """PENALTY is .3 nats, the ceiling ln 11 / 100 = .024: what lies within +-.075 is negligible."""
    assert control(paper).state == "holds"
    assert control(paper, 0.074).state == "holds"
    assert "±0.075" in control(paper).evidence
    assert control(paper, 0.076).state == "inconclusive"


def test_a_control_whose_unique_text_grows_with_k_is_none(paper):
    for design in (None, "all", "constant_total"):
        verdict = control(paper, design=design)
        assert verdict.state == "inconclusive"
        assert "unique text grows with K" in verdict.evidence


def test_without_an_effect_to_explain_the_control_is_judged_by_the_ceiling(paper):
    alone = [run for run in paper if run.arm == "shuffled"]
    assert control(alone, 0.023).state == "holds"
    assert control(alone, 0.025).state == "inconclusive"


def test_the_control_that_ships_can_hold(paper):
    paired = analysis.paired_by_k(paper, analysis.paired_differences(paper))
    (verdict,) = [v for v in verdicts.about_text(paper, paired) if "shuffled" in v.claim]
    assert verdict.state == "holds"
    assert "8 runs, over seeds" in verdict.evidence


def test_the_paper_study_has_its_report(paper_runs):
    page = render(build_report("A title", "A subtitle.", paper_runs, "paribus study"))
    assert all(sweep in page for sweep in paper_runs)


FIVE = ("cs.DS", "cs.IT", "cs.PL", "math.GR", "math.ST")
COST = dict(
    zip(FIVE, (0.0, 0.1, 0.2, 0.3, 0.4), strict=True)
)  # nats for each category that a model has beside this one


@pytest.fixture(scope="module")
def subsets_runs(tmp_path_factory):
    def loss(sweep, run, active, name):
        return 3 + FIVE.index(name) + COST[name] * (len(active) - 1)

    return fabricate(tmp_path_factory.mktemp("subsets"), "subsets", loss, FIVE)


@pytest.fixture(scope="module")
def subsets(subsets_runs):
    return analysis.read_all(subsets_runs)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_subsets_of_every_size_are_judged_on_the_same_categories(subsets, k):
    """Over all subsets of a size every category weighs alike, so nothing but COST may differ between sizes."""
    expected = 5 + 0.2 * (k - 1)
    curves, _ = analysis.position_curves(subsets)
    curve = curves.filter(pl.col("K") == k, pl.col("kind") == "measured")["loss"]
    assert curve.mean() == pytest.approx(expected, abs=1e-4)
    (score,) = analysis.in_context(subsets).filter(pl.col("K") == k)["score"]
    a, b = (next(run for run in subsets if run.k == k).record["in_context"][key] for key in "ab")
    assert score == pytest.approx(curve[a - 1] - curve[b - 1], abs=1e-4)
    (loss,) = analysis.loss_by_k(subsets).filter(pl.col("K") == k)["loss"]
    assert loss == pytest.approx(expected, abs=1e-4)


def test_subsets_are_no_seeds_and_their_spread_no_interval(subsets):
    table = analysis.paired_by_k(subsets, analysis.paired_differences(subsets)).filter(pl.col("band") == "all")
    pairs = table.row(by_predicate=pl.col("K") == 2, named=True)
    assert (pairs["runs"], pairs["over"]) == (10, "subsets")
    assert [pairs[key] for key in ("delta_low", "delta", "delta_high")] == pytest.approx([0.05, 0.2, 0.35], abs=1e-4)
    everything = table.row(by_predicate=pl.col("K") == 5, named=True)
    assert everything["delta"] == pytest.approx(0.8, abs=1e-4)
    assert (everything["over"], everything["delta_low"]) == ("one run", None)


def test_a_subset_without_all_its_specialists_is_no_part_of_the_mean(subsets):
    found = [run for run in subsets if run.active != ("math.ST",)]
    table = analysis.paired_by_k(found, analysis.paired_differences(found)).filter(pl.col("band") == "all")
    assert dict(table.select("K", "runs").iter_rows()) == {1: 4, 2: 6, 3: 4, 4: 1}


def test_the_error_of_a_mean_curve_counts_shared_windows_once(subsets):
    """Ten models on the same windows know no more about them than one; five categories are five samples."""
    single = next(run for run in subsets if run.k == 1)
    alike = [single._replace(path=single.path / str(number)) for number in range(10)]
    np.testing.assert_allclose(analysis._curve_error(alike), single.curve_error(*single.active))
    everything = next(run for run in subsets if run.k == 5)
    each = [everything.curve_error(name) for name in FIVE]
    np.testing.assert_allclose(analysis._curve_error([everything]), np.linalg.norm(each, axis=0) / 5)


def test_the_subsets_study_names_its_spread(subsets_runs):
    page = render(build_report("A title", "A subtitle.", subsets_runs, "paribus study"))
    assert "least to the greatest subset" in page
