"""The ergodic study on a toy corpus: its numbers against what the evaluations say, its report, and the command."""

import json
import math

import numpy as np
import polars as pl
import pytest

from paribus import experiment, rundir
from paribus.errors import RunError
from paribus.report.cells import interval
from paribus.report.page import render
from paribus.studies import study
from paribus.studies.ergodic import analysis, verdicts
from paribus.studies.ergodic.study import build_report
from tiny_runs import LAUNCH, MODEL, TRAIN, coins_run, text_run, text_store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """K = 1, 2, 3 with two seeds each, and a run on coins: sweep -> run directories."""
    folder = tmp_path_factory.mktemp("ergodic")
    store = text_store(folder / "store")
    made = []
    for k in (1, 2, 3):
        for seed in (0, 1):
            changes = [f"seeds.categories={seed}", f"seeds.order={seed}", f"name=k{k}-seed{seed}"]
            made.append(text_run(folder, *changes, store=store, categories={"kind": "nested", "k": k}))
    coins = coins_run(folder)
    for run, config in [*made, coins]:
        experiment.run(run, config)
    return {"text": [run.path for run, _ in made], "coins": [coins[0].path]}


@pytest.fixture(scope="module")
def found(runs):
    return analysis.read_all(runs)


def test_the_loss_at_k_is_the_mean_over_the_categories_trained_on(found):
    table = analysis.loss_by_k(found)
    for k in (1, 2, 3):
        expected = np.mean([np.mean([run.category_loss(name) for name in run.active]) for run in found if run.k == k])
        assert table.filter(pl.col("K") == k)["loss"].item() == pytest.approx(expected, abs=1e-12)
    assert table.filter(pl.col("K") == 1)["delta"].item() == 0


def test_the_ceiling_is_ln_k_over_the_window(found):
    table = analysis.loss_by_k(found)
    np.testing.assert_allclose(table["ceiling"], [0, math.log(2) / 16, math.log(3) / 16])


def test_categories_nest_and_the_first_is_everybodys_home(found):
    for seed in (0, 1):
        by_k = {run.k: run for run in found if run.seed == seed}
        assert set(by_k[1].active) < set(by_k[2].active) < set(by_k[3].active)
        assert {run.home for run in by_k.values()} == {by_k[1].active[0]}


def test_a_paired_difference_is_that_of_the_losses_on_the_shared_windows(found):
    """Every prediction is scored, so the mean over windows is the category's loss."""
    table = analysis.paired_differences(found).filter(pl.col("band") == "all")
    for row in table.iter_rows(named=True):
        run, single = (next(r for r in found if r.seed == row["seed"] and r.k == k) for k in (row["K"], 1))
        expected = run.category_loss(row["category"]) - single.category_loss(row["category"])
        assert row["delta"] == pytest.approx(expected, abs=1e-6)
        assert row["delta_low"] <= row["delta"] <= row["delta_high"]
    assert (table.filter(pl.col("K") == 1)["delta"] == 0).all()


def test_position_curves_average_to_the_loss(found):
    curves, fits = analysis.position_curves(found)
    for k in (1, 2, 3):
        curve = curves.filter(pl.col("K") == k, pl.col("kind") == "measured")["loss"]
        expected = np.mean([run.category_loss(run.home) for run in found if run.k == k])
        assert curve.mean() == pytest.approx(expected, abs=1e-9)
    assert len(fits) == 3


def test_an_exponent_that_the_curve_does_not_determine_is_marked_and_no_curve(found):
    def with_curve(run, mean_T):
        count = np.asarray(run.record["matrix"]["count"])
        spread = {"sum": (count * mean_T).tolist(), "square": (count * (mean_T**2 + 0.01)).tolist()}
        return run._replace(record={**run.record, "matrix": {**run.record["matrix"], **spread}})

    t = np.arange(1, 17)
    steep = [with_curve(run, 3 + 2 * t**-0.5 if run.k == 2 else np.full(16, 3.0)) for run in found]
    curves, fits = analysis.position_curves(steep)
    assert fits.select("K", "state").rows() == [(1, "not determined"), (2, "determined"), (3, "not determined")]
    assert curves.filter(pl.col("kind") == "fit")["K"].unique().to_list() == [2]
    assert fits.filter(pl.col("K") == 2)["b"].item() == pytest.approx(0.5, rel=1e-3)


def test_quantities_are_those_that_the_runs_recorded(found):
    table = analysis.quantities(found)
    assert (table["total_tokens"] == 6 * 8 * 16).all()
    assert (table["passes"] * table["unique_tokens"] - table["total_tokens"]).abs().max() < 1e-6


def test_verdicts_compare_intervals_and_never_points():
    row = {"delta_low": -0.1, "delta_high": 0.02, "over": "seeds"}
    assert verdicts._below(row, 0.05) == "holds"
    assert verdicts._below(row, 0.01) == "inconclusive"
    assert verdicts._below(row, -0.2) == "fails"
    assert verdicts._below({**row, "delta_low": None, "delta_high": None}, 0.0) == "inconclusive"
    assert verdicts._below({**row, "over": "subsets"}, 0.05) == "inconclusive"


def test_no_effect_is_claimed_only_with_the_power_to_see_one():
    row = {"delta_low": -0.03, "delta_high": 0.02, "over": "seeds"}
    assert verdicts._no_effect(row, 0.04) == "holds"
    assert verdicts._no_effect(row, 0.025) == "inconclusive"
    assert verdicts._no_effect({**row, "delta_low": 0.01}, 0.04) == "fails"
    assert verdicts._no_effect({**row, "delta_low": None}, 0.04) == "inconclusive"
    assert verdicts._no_effect({**row, "over": "subsets"}, 0.04) == "inconclusive"


def test_the_report_has_every_section_and_every_run(runs):
    report = build_report("A title", "A subtitle.", runs, "paribus study")
    titles = [section.title for section in report.sections]
    assert titles[:8] == [
        "What was found",
        "Loss against K",
        "The same windows, paired",
        "Loss against position",
        "In-context score",
        "By category",
        "How much data",
        "Trained against optimal",
    ]
    page = render(report)
    assert all(name in page for name in ("k1-seed0", "k3-seed1", "coins"))


def test_the_number_to_take_away_never_stands_without_its_interval_and_unit(runs, found):
    report = build_report("A title", "A subtitle.", runs, "paribus study")
    shown = {tile.label: tile for tile in report.sections[0].blocks[0].tiles}
    by_k = analysis.paired_by_k(found, analysis.paired_differences(found))
    row = by_k.filter(pl.col("K") == 3, pl.col("band") == "all").row(0, named=True)
    limits = interval(row["delta_low"], row["delta_high"], "+.3f")
    assert shown["Effect of K"].note.startswith(f"{limits} nats a token: K = 3 minus K = 1")
    assert shown["Ceiling of theory"].note.startswith("nats a token, ln 3 / T")
    evidence = " ".join(verdict.evidence for verdict in report.sections[0].blocks[1].verdicts)
    assert f"{limits} nats a token, 2 runs, over seeds" in evidence
    assert ", 1 run" in evidence
    assert "1 runs" not in evidence


def test_nothing_is_claimed_about_k_before_there_is_a_second(runs):
    first = {"text": [path for path in runs["text"] if path.name.startswith("k1-")]}
    tiles, claims = build_report("A title", "A subtitle.", first, "paribus study").sections[0].blocks
    assert [tile.label for tile in tiles.tiles] == ["Runs"]
    assert not any("K" in verdict.claim for verdict in claims.verdicts)


def test_a_study_without_its_text_runs_still_has_a_report(runs):
    assert "Trained against optimal" in render(
        build_report("A title", "A subtitle.", {"coins": runs["coins"]}, "paribus study")
    )


def test_a_study_before_its_first_run_is_done_has_a_report_and_redrawing_keeps_the_old(tmp_path, monkeypatch):
    assert "What was found" in render(build_report("A title", "A subtitle.", {"text": []}, "paribus study"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/ergodic-smoke"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("old")
    base = {
        "name": "coins",
        "data": {"kind": "coins", "num_components": 3, "window": 16},
        "model": MODEL,
        "train": TRAIN,
    }
    coins = {"base": base, "name": "coins-{seeds.order}", "grid": {"seeds.order": [0, 1]}}
    size = {"folder": "ergodic-smoke", "title": "Mine", "sweeps": {"coins": coins}}
    rundir.write_json(tmp_path / "mine.yaml", size)
    rundir.write_json(folder / "study.json", {"file": "mine.yaml", "overrides": []})
    with pytest.raises(RunError, match=r"none of the 2 runs .* `paribus study ergodic mine.yaml` trains them$"):
        study.redraw("ergodic")
    assert (folder / "report.html").read_text() == "old"


@pytest.mark.slow
def test_a_study_resumes_skips_what_is_done_and_redraws(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    store = text_store(tmp_path / "store")
    base = {
        "name": "text",
        "data": {
            "kind": "text",
            "store": str(store),
            "window": 16,
            "start_token": True,
            "categories": {"kind": "nested", "k": 1},
        },
        "model": MODEL,
        "train": TRAIN,
        "evals": {"test": {"kind": "loss", "split": "test", "categories": "all", "windows_per_category": 8}},
        "launch": LAUNCH,
    }
    sweep = {"base": base, "name": "k{data.categories.k}", "grid": {"data.categories.k": [1, 2]}}
    (tmp_path / "mine.yaml").write_text(
        json.dumps({"folder": "ergodic-mine", "title": "Mine", "sweeps": {"text": sweep}})
    )
    study.run_study("ergodic", "mine.yaml", max_parallel=2)
    first = capfd.readouterr().out
    assert "2 runs: 2 done" in first
    assert first.splitlines()[-1] == f"report: {tmp_path / 'runs/ergodic-mine/report.html'}"
    study.run_study("ergodic", "mine.yaml", max_parallel=2)
    assert "2 runs: 2 done (2 already)" in capfd.readouterr().out
    (tmp_path / "runs/ergodic-mine/report.html").unlink()
    study.run_study("ergodic", "report")
    assert (tmp_path / "runs/ergodic-mine/report.html").exists()
