"""Oracle: the files themselves, read line by line with the standard library."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from fabricate import Fabricated, fabricate

from paribus import config
from paribus.directories import read_config
from paribus.errors import RunError
from paribus.evals.results import write_result
from paribus.report import collect
from paribus.run_config import RunConfig
from paribus.rundir import RunDir
from paribus.tree import plain


@pytest.fixture(scope="session")
def table(runs: Path) -> pl.DataFrame:
    return collect.load_runs(runs)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_run_is_a_row_whatever_its_state(table: pl.DataFrame):
    assert table["name"].to_list() == ["k1-seed0", "k2-seed0", "k2-seed1", "k4-seed1", "k11-seed0"]
    assert table["state"].to_list() == ["done", "done", "interrupted", "diverged", "done"]
    assert table["step"].to_list() == [200, 200, 100, 150, 200]


def test_a_run_that_a_process_holds_is_running(tmp_path: Path):
    path = fabricate(tmp_path, Fabricated(state="running"))
    with RunDir(path).lock():
        assert collect.load_runs(path)["state"].to_list() == ["running"]


def test_final_metrics_and_tokens_are_those_of_the_last_lines(table: pl.DataFrame):
    for row in table.iter_rows(named=True):
        last = [line for line in lines(Path(row["path"])) if "loss" in line][-1]
        assert row["final/loss"] == last["loss"]
        assert row["final/tokens"] == last["tokens"]


def test_the_last_loss_is_found_behind_long_lines_of_evaluations(tmp_path: Path):
    run = fabricate(tmp_path, Fabricated())
    last = lines(run)[-2]["loss"]
    with (run / "metrics.jsonl").open("a") as file:
        for number in range(300):
            file.write(json.dumps({"step": 200, f"evaluation/{number}/loss": 1.0, "evaluation/pad/loss": 0.1}) + "\n")
    assert collect.load_runs(run)["final/loss"].to_list() == [last]


def test_evaluations_are_the_newest_of_each_run(table: pl.DataFrame):
    for row in table.filter(pl.col("state") == "done").iter_rows(named=True):
        record = json.loads((Path(row["path"]) / "evals/validation/step-000200.json").read_text())
        assert row["evaluation/validation/loss"] == record["summary"]["loss"]
        assert row["evaluation/validation/loss/cs.CV"] == record["by_category"]["mean"][0]
    assert table.filter(pl.col("state") != "done")["evaluation/validation/loss"].null_count() == 2


def test_config_columns_are_the_resolved_config(table: pl.DataFrame):
    row = table.row(1, named=True)
    read = config.load(Path(row["path"]) / "config.yaml", RunConfig)
    assert row["data.categories.k"] == 2
    assert row["train.optimizer.lr"] == read.train.optimizer.lr
    assert json.loads(row["train.optimizer.betas"]) == list(read.train.optimizer.betas)
    assert row["train.schedule.kind"] == "constant"
    assert table.schema["train.optimizer.lr"] == pl.Float64
    assert set(collect.config_keys(table)) & set(table.columns[:7]) == set()


def test_the_fast_reading_of_a_config_agrees_with_the_loader(runs: Path):
    for run in collect.find_runs(runs):
        assert read_config(RunDir(run)) == plain(config.resolve(run / "config.yaml"))


def test_a_dollar_in_a_config_is_read_as_the_loader_reads_it(tmp_path: Path):
    path = fabricate(tmp_path, Fabricated())
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("stores/sample", "'$${HOME}/sample'"))
    assert collect.load_runs(path)["data.store"][0] == "${HOME}/sample"


def test_tokens_passes_and_seconds_are_added_up(table: pl.DataFrame):
    row = table.row(0, named=True)
    assert (row["data/unique_tokens"], row["data/total_tokens"]) == (50_000, 200 * 16 * 32)
    assert row["time/total_s"] == pytest.approx(20 * 1.75)
    assert row["provenance/commit"] == "0123456789ab"


def test_curves_are_the_logged_lines(runs: Path):
    run = collect.find_runs(runs)[0]
    found = {(row["step"], row["metric"]): row["value"] for row in collect.curves(run).iter_rows(named=True)}
    written = {(line["step"], key): float(value) for line in lines(run) for key, value in line.items() if key != "step"}
    assert found == written


def test_a_half_written_line_and_a_null_are_left_out(tmp_path: Path):
    run = fabricate(tmp_path, Fabricated(state="running"))
    whole = collect.curves(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "loss": null}\n{"step": 102, "lo')
    assert collect.curves(run).equals(whole)
    assert collect.load_runs(run)["step"][0] == 101


def test_a_run_before_its_first_step_has_no_curve(tmp_path: Path):
    run = fabricate(tmp_path, Fabricated())
    (run / "metrics.jsonl").write_text("")
    shutil.rmtree(run / "evals")
    assert collect.curves(run).is_empty()
    assert collect.evaluations(run) == {}
    assert collect.load_runs(run)["state"].to_list() == ["done"]


def test_an_evaluation_is_the_one_asked_for(runs: Path):
    run = collect.find_runs(runs)[0]
    assert collect.evaluations(run) == {"causality": [200], "validation": [100, 200]}
    assert collect.evaluation(run, "validation") == collect.evaluation(run, "validation", 200)
    assert collect.evaluation(run, "validation", 100) != collect.evaluation(run, "validation")
    with pytest.raises(RunError, match="no evaluation `test`; found causality, validation"):
        collect.evaluation(run, "test")
    with pytest.raises(RunError, match=r"not made at step 7; it was at \[100, 200\]"):
        collect.evaluation(run, "validation", 7)


def test_a_damaged_evaluation_is_named(tmp_path: Path):
    run = fabricate(tmp_path, Fabricated())
    (run / "evals/validation/step-000200.json").write_text("{")
    with pytest.raises(RunError, match=r"step-000200\.json: is not a JSON object"):
        collect.load_runs(tmp_path)


def test_a_path_without_runs_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="no run directory here"):
        collect.load_runs(tmp_path)


def test_a_path_given_twice_is_one_row(runs: Path):
    one = collect.find_runs(runs)[0]
    assert len(collect.load_runs(one, one, runs)) == 5


def test_thinning_loses_no_value_and_no_end():
    step = pl.int_range(10, 10_001, 10, eager=True)
    frames = [
        pl.DataFrame({"name": name, "step": step, "value": (step * slope).cast(pl.Float64)})
        for name, slope in (("a", 1), ("b", -2))
    ]
    thin = collect.thinned(pl.concat(frames), ["name"], most=100)
    a, b = (thin.filter(pl.col("name") == name) for name in "ab")
    assert len(a) == len(b) == 100
    assert a["step"].equals(b["step"])
    assert (a["step"][-1], a["high"].max(), a["low"].min()) == (10_000, 10_000.0, 10.0)
    assert a["value"].mean() == pytest.approx(step.mean(), rel=1e-12)


def test_a_short_curve_is_not_thinned():
    frame = pl.DataFrame({"name": "a", "step": [1, 2, 3], "value": [3.0, 1.0, 2.0]})
    assert collect.thinned(frame, ["name"], most=3).select(frame.columns).equals(frame)


def test_an_evaluation_made_later_is_found_too(tmp_path: Path):
    from fabricate import loss_result
    from numpy.random import default_rng

    run = fabricate(tmp_path, Fabricated())
    write_result(run / "evals", "test", 200, loss_result(Fabricated(), 200, default_rng(0)))
    assert "evaluation/test/loss" in collect.load_runs(run).columns
