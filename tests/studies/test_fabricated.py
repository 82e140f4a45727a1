"""The study's analysis on whole sweeps whose every loss is known beforehand: what is compared with what, and what counts."""

import polars as pl
import pytest
from fabricated import CATEGORIES, fabricate

from paribus.report.page import render
from paribus.studies.ergodic import analysis
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
    """The category of each seed's own K = 1 run."""
    return {(run.seed, *run.active) for run in paper if run.arm == "text" and run.k == 1}


def test_a_shuffled_run_is_never_compared_with_a_specialist_of_the_original_categories(paper, homes):
    """What the shuffled deal calls cs.AI are other documents; its own K = 1 run is all that it can be compared with."""
    table = analysis.paired_differences(paper).filter(pl.col("band") == "all")
    shuffled = table.filter(pl.col("arm") == "shuffled")
    assert set(shuffled.select("seed", "category").iter_rows()) == homes
    assert shuffled["delta"].abs().max() < 1e-6


def test_a_baseline_serves_the_runs_of_every_seed(paper, homes):
    table = analysis.paired_differences(paper).filter(pl.col("band") == "all", pl.col("arm") == "text")
    for seed in (0, 1, 2):
        most = table.filter(pl.col("K") == 11, pl.col("seed") == seed)
        assert sorted(most["category"]) == list(CATEGORIES)
        for name, delta in most.select("category", "delta").iter_rows():
            partner = 0.0 if (seed, name) in homes else -0.01
            assert delta == pytest.approx(PENALTY - partner, abs=1e-5)


def test_every_seed_counts_its_home_alone_towards_the_effect_of_k(paper):
    """On the home all seeds have a partner of their own; an average with the others would be of another quantity."""
    table = analysis.paired_by_k(paper, analysis.paired_differences(paper))
    for row in table.filter(pl.col("arm") == "text").iter_rows(named=True):
        assert row["seeds"] == 3
        assert row["delta"] == pytest.approx(PENALTY * (row["K"] - 1) / 10, abs=1e-5)
        assert row["delta_high"] - row["delta_low"] < 1e-4


def test_specialists_that_were_scored_on_other_windows_are_not_taken(paper, homes):
    other = {"windows": paper[0].record["windows"] | {"fingerprint": "another"}}
    moved = [run._replace(record={**run.record, **other}) if run.arm == "baselines" else run for run in paper]
    table = analysis.paired_differences(moved)
    assert set(table.select("seed", "category").iter_rows()) == homes


def test_the_paper_study_has_its_report(paper_runs):
    page = render(build_report("A title", "A subtitle.", paper_runs, "paribus study"))
    assert all(sweep in page for sweep in paper_runs)
