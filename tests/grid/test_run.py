"""Programs that are trained: what they leave, how they end, and that stopping them changes no bit."""

import os
import signal

import numpy as np
import polars as pl
import pytest

from paribus import load_runs
from paribus.errors import CheckpointError, ConfigError
from paribus.grid import programs, run
from paribus.grid.results import evaluations, losses, read_searches
from paribus.report.overview import generic_report
from tiny_grids import one, points

FRESH = {"kind": "polynomial", "input_dim": 8, "num_heldout": 64}


def trained(runs):
    placed = programs.place_all(runs)
    return [run.run(*one) for one in placed]


def everything(path):
    """All that must not depend on interruptions."""
    table = load_runs(path).sort("name")
    measured = [name for name in table.columns if name.split("/")[0] in ("initial", "final", "peak")]
    return (
        table.select("id", "name", "state", "reason", "label", "step", *measured).rows(),
        losses(path).sort("id", "step").rows(),
        evaluations(path).sort("id", "metric", "step").rows(),
    )


def test_five_epochs_leave_exactly_five_epoch_entries_and_the_start(tmp_path):
    trained([one(tmp_path)])
    made = evaluations(tmp_path).filter(pl.col("metric") == "heldout_loss").sort("step")
    assert made["epoch"].to_list() == [None, 1, 2, 3, 4, 5]
    assert made["step"].to_list() == [0, 6, 12, 18, 24, 30], "100 samples fill six batches of 16"
    assert losses(tmp_path)["step"].to_list() == list(range(30))
    row = load_runs(tmp_path).row(0, named=True)
    assert (row["state"], row["label"], row["step"]) == ("done", "stable", 30)
    assert row["final/heldout_loss"] == made["value"][-1] < row["initial/loss"]


def test_a_run_that_diverges_is_kept_with_its_step_and_reason_and_touches_no_other(tmp_path):
    base = one(tmp_path / "both", data=FRESH, train={"eta": 1.0, "batch_size": 16, "budget": {"steps": 40}})
    trained(points(base, [0.05, 1e4]))
    alone = one(tmp_path / "alone", data=FRESH, train={"eta": 1.0, "batch_size": 16, "budget": {"steps": 40}})
    trained(points(alone, [0.05]))
    table = load_runs(tmp_path / "both").sort("train.eta")
    assert table["state"].to_list() == ["done", "diverged"]
    last = table["step"][1]
    assert last < 40
    assert table["reason"][1].startswith(f"step {last - 1}: the loss is ")
    its = losses(tmp_path / "both").filter(pl.col("id") == table["id"][1])
    assert len(its) == last
    assert everything(tmp_path / "alone")[1] == losses(tmp_path / "both").filter(pl.col("id") == table["id"][0]).rows()


def test_a_program_that_is_stopped_goes_on_bit_for_bit_and_a_finished_one_takes_no_step(tmp_path, monkeypatch):
    changes = {"train": {"eta": 1.0, "batch_size": 16, "budget": {"epochs": 60}, "optimizer": {"kind": "adam"}}}
    changes["launch"] = {"devices": 1, "progress": False, "checkpoint_every_s": 1e-6}
    etas, gammas = [0.01, 0.1, 100.0], [0.1, 10.0]
    trained(points(one(tmp_path / "whole", **changes), etas, gammas))
    runs = points(one(tmp_path / "parts", **changes), etas, gammas)
    advance = run.Results.write

    def interrupted(self, number, step):
        advance(self, number, step)
        if step in (64, 192):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run.Results, "write", interrupted)
    assert trained(runs)[0].signal == signal.SIGTERM
    while (outcome := trained(runs)[0]).state != "done":
        assert outcome.signal == signal.SIGTERM
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert trained(runs)[0].reason == "done already"
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}


def test_a_bisection_ends_between_a_stable_and_an_unstable_eta_that_were_trained(tmp_path):
    search = {"kind": "bisection", "low": 2.0**-6, "high": 2.0**10, "tolerance_log2": 1.0}
    base = one(tmp_path, data=FRESH, train={"eta": search, "batch_size": 16, "budget": {"steps": 100}})
    trained([programs.at(base, name=f"g{gamma:g}", gamma=gamma, eta=base.train.eta) for gamma in (0.5, 2.0)])
    (program,) = [path.parent for path in tmp_path.rglob("ids.json")]
    table = load_runs(tmp_path)
    for row in read_searches(program).iter_rows(named=True):
        tried = {
            r["train.eta"]: r["label"]
            for r in table.filter(pl.col("model.gamma") == row["model.gamma"]).rows(named=True)
        }
        assert tried[row["low"]] in ("stable", "catapult")
        assert tried[row["high"]] in ("risen", "diverged")
        assert row["high"] / row["low"] <= 2.0
        assert row["is_bracketed"]
        assert len(tried) == row["trials"] == 6
    assert len(set(table["id"])) == len(table) == 12, "each trial is a run of its own"


def test_weights_are_kept_as_differences_from_the_first(tmp_path):
    from safetensors.numpy import load_file

    trained(points(one(tmp_path, record={"snapshots": True}), [0.05, 0.1]))
    (folder,) = tmp_path.rglob("weights")
    assert sorted(path.stem for path in folder.iterdir()) == [
        "initial",
        *(f"step-{s:06d}" for s in (0, 1, 2, 5, 10, 20)),
    ]
    initial, first, last = (
        load_file(folder / f"{name}.safetensors") for name in ("initial", "step-000000", "step-000020")
    )
    assert {name: leaf.shape for name, leaf in initial.items()} == {"W1": (8, 16), "W2": (16, 1)}
    assert all((leaf == 0).all() for leaf in first.values())
    assert all(np.linalg.norm(last[name][1]) > np.linalg.norm(last[name][0]) > 0 for name in last)


def test_a_batch_larger_than_the_data_is_refused_and_leaves_nothing(tmp_path):
    train = {"eta": 0.1, "batch_size": 2000, "budget": {"steps": 3}}
    with pytest.raises(ConfigError, match=r"train.batch_size: 2,000 is more than the data.num_samples: 100"):
        one(tmp_path, train=train)
    with pytest.raises(ConfigError, match=r"train.batch_size: 2,000 is more than the 1,\d\d\d samples there are"):
        trained([one(tmp_path, data={"kind": "images"}, train=train)])
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_damaged_checkpoint_is_named_and_refused(tmp_path, monkeypatch):
    runs = [one(tmp_path)]
    monkeypatch.setattr(run.Results, "write", lambda self, number, step: os.kill(os.getpid(), signal.SIGTERM))
    trained(runs)
    (arrays,) = tmp_path.rglob("arrays-*.safetensors")
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        trained(runs)
    (record,) = tmp_path.rglob("state.json")
    whole = record.read_text()
    for torn in (whole[:20], "null", "\0" * 30, "{}"):
        record.write_text(torn)
        with pytest.raises(CheckpointError, match=r"state\.json: damaged \(.*\); remove .*state to begin again$"):
            trained(runs)


def test_a_report_of_any_runs_has_the_plots_that_a_grid_has_something_for(tmp_path):
    trained(points(one(tmp_path / "runs"), [0.01, 0.1, 1.0], [0.1, 1.0]))
    generic_report([tmp_path / "runs"], tmp_path / "page.html")
    assert "portrait" in {path.stem for path in (tmp_path / "page_figures").iterdir()}
