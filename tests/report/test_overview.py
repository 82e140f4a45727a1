"""`paribus report` on runs in every state. Oracles: the run directories, and the arithmetic of the records."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from browser import Browser
from fabricate import Fabricated, fabricate

from paribus.report import collect, losses, overview, runs
from paribus.report.blocks import Block, Code, Details, Table, Verdicts

SETTINGS = re.compile(r"^([\w.]+): ", re.MULTILINE)


@pytest.fixture(scope="module")
def table(runs: Path) -> pl.DataFrame:
    return overview.labelled(collect.load_runs(runs))


def test_the_page_of_any_runs_is_quiet_and_complete(browser: Browser, runs: Path, tmp_path: Path):
    page = overview.generic_report([runs], tmp_path / "report.html")
    browser.open(page, 390, "dark")
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.evaluate("document.querySelectorAll('#table-1 tbody tr').length") == 5
    assert browser.evaluate(
        "[...document.querySelectorAll('#overview .badge')].map(b => b.className + b.textContent)"
    ) == [
        "badge gooddone",
        "badge gooddone",
        "badge openinterrupted",
        "badge baddiverged",
        "badge gooddone",
        "badge baddiverged",
    ]
    assert "loss is nan at step 150: <windows 3, 7>" in browser.evaluate(
        "document.querySelector('#overview').textContent"
    )
    drawn = browser.evaluate(
        "[...document.querySelectorAll('figure')].filter(f => f.querySelector('svg')).map(f => f.id)"
    )
    assert drawn == [
        "figure-training-loss",
        "figure-training-grad_norm",
        "figure-training-evaluation-validation-loss",
        "figure-validation-position",
        "figure-validation-matrix",
    ]
    assert {file.stem for file in (tmp_path / "report_figures").iterdir()} == {
        name.removeprefix("figure-") for name in drawn
    }


def test_one_run_before_its_first_step_has_a_page(tmp_path: Path):
    run = fabricate(tmp_path, Fabricated(state="running"))
    (run / "metrics.jsonl").write_text("")
    (run / "provenance.json").unlink()
    page = overview.generic_report([run], tmp_path / "report.html")
    assert "<title>k1-seed0</title>" in page.read_text()


def test_reading_and_drawing_need_no_tensor_library(runs: Path):
    code = f"""
import sys
from paribus.report import overview
overview.training(overview.collect.load_runs({str(runs)!r}))
print([name for name in ("torch", "jax", "transformers", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def folded(blocks: list[Block]) -> dict[str, str]:
    """Summary -> the listing that it folds away."""
    return {b.summary: c.text for b in blocks if isinstance(b, Details) for c in b.blocks if isinstance(c, Code)}


def test_every_setting_is_told_once_and_the_counts_are_those_of_what_is_told(table: pl.DataFrame):
    blocks = runs.settings(table)
    (differing,) = (block for block in blocks if isinstance(block, Table))
    (equal, listing), (where_and_how, rest) = folded(blocks).items()
    keys = [column.field for column in differing.columns[1:]], SETTINGS.findall(listing), SETTINGS.findall(rest)
    present = [key for key in collect.config_keys(table) if table[key].null_count() < len(table)]
    assert sorted(key for group in keys for key in group) == sorted(present)
    assert {"data.categories.k", "seeds.order"} <= set(keys[0])
    assert "train.optimizer.lr: 0.0003" in listing
    assert {key.split(".")[0] for key in keys[2]} == {"track", "launch", "paths"}
    counts = [list(map(int, re.findall(r"\d+", text))) for text in (differing.caption, equal, where_and_how)]
    all_decisive = len(keys[0]) + len(keys[1])
    assert counts == [[all_decisive, len(keys[0])], [all_decisive, len(keys[1])], [len(keys[2])]]


def test_where_runs_ran_is_told_also_where_it_differs(table: pl.DataFrame):
    threads = pl.when(pl.col("seeds.order") == 0).then(1).otherwise(2)
    (_, (_, rest)) = folded(runs.settings(table.with_columns(threads.alias("launch.threads")))).items()
    assert "launch.threads: 1, 2" in rest.splitlines()


def test_runs_that_differ_in_nothing_are_called_equal(tmp_path: Path):
    fabricate(tmp_path, Fabricated())
    table = collect.load_runs(tmp_path)
    blocks = runs.settings(pl.concat([table, table]))
    assert not any(isinstance(block, Table) for block in blocks)
    assert re.search(r"all \d+ settings that decide a run are equal$", next(iter(folded(blocks))))


def test_packages_are_listed_once_and_those_that_differ_by_run(tmp_path: Path):
    paths = [fabricate(tmp_path, Fabricated(seed=seed)) for seed in (0, 1)]
    record = json.loads((paths[1] / "provenance.json").read_text())
    record["attempts"][0]["packages"]["torch"] = "2.14.0"
    (paths[1] / "provenance.json").write_text(json.dumps(record))
    blocks = {
        block.summary: block.blocks[0]
        for block in runs.provenance(collect.load_runs(tmp_path))
        if isinstance(block, Details)
    }
    assert blocks["Packages that every run shares (1)"] == Code("numpy==2.4.6")
    differing = blocks["Packages whose versions differ (1)"]
    assert isinstance(differing, Table)
    assert differing.frame.rows() == [("torch", "2.13.0", "2.14.0")]


def test_runs_of_one_name_get_their_identity(tmp_path: Path):
    for steps in (100, 200):
        fabricate(tmp_path, Fabricated(steps=steps))
    table = overview.labelled(collect.load_runs(tmp_path))
    assert table["name"].to_list() == [f"k1-seed0 ({identity})" for identity in table["id"]]


def test_a_model_that_looks_ahead_fails_by_name(tmp_path: Path):
    paths = [fabricate(tmp_path, Fabricated(seed=seed)) for seed in (0, 1)]
    record = json.loads((paths[1] / "evals/causality/step-000200.json").read_text())
    record["summary"]["is_causal"] = 0.0
    (paths[1] / "evals/causality/step-000200.json").write_text(json.dumps(record))
    (verdicts,) = overview.evaluation(collect.load_runs(tmp_path), "causality").blocks
    assert isinstance(verdicts, Verdicts)
    assert verdicts.verdicts[0].state == "fails"
    assert "1 of 2 models" in verdicts.verdicts[0].evidence
    assert "k1-seed1" in verdicts.verdicts[0].evidence


def test_evaluations_stand_in_the_order_of_the_config(table: pl.DataFrame):
    assert overview.evaluation_names(table) == ["validation", "causality"]


def test_pooling_a_matrix_keeps_the_mean_of_all_predictions(table: pl.DataFrame):
    done = table.filter(pl.col("state") == "done")
    records = [collect.evaluation(path, "validation") for path in done["path"]]
    windows = sum(record["windows"]["count"] for record in records)
    expected = sum(record["loss"]["mean"] * record["windows"]["count"] for record in records) / windows
    counts = {name: sum(50 for record in records if name in record["categories"]) for name in records[-1]["categories"]}
    for most, columns in ((128, 32), (10, 8)):
        cells = losses.matrix(records, most)
        assert cells["position"].n_unique() == columns
        weight = cells["category"].replace_strict(counts).to_numpy()
        assert np.average(cells["loss"].to_numpy(), weights=weight) == pytest.approx(expected)


def test_bins_of_positions_keep_the_mean_and_become_even_on_a_logarithmic_axis():
    position_T, loss_T = np.arange(1, 101), np.random.default_rng(0).normal(size=100)
    frame = pl.DataFrame({"position": position_T, "loss": loss_T})
    both = pl.concat([frame.with_columns(K=pl.lit(k), loss=pl.col("loss") + k) for k in (1, 4)])
    binned = losses.in_log_bins(both.select("K", "position", "loss"))
    one, four = binned.partition_by("K", maintain_order=True)
    np.testing.assert_allclose(four["loss"] - one["loss"], 3)
    assert one["position"][:6].to_list() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(one["loss"][:6], loss_T[:6] + 1)
    assert 20 < len(one) < 30
    assert (np.diff(np.log(one["position"]))[10:] < 0.2).all()
    ((position, loss),) = losses.in_log_bins(frame, ratio=1000).rows()
    assert (position, loss) == (10, pytest.approx(loss_T.mean()))


def test_limits_of_a_position_are_196_standard_errors_wide(table: pl.DataFrame):
    record = collect.evaluation(table["path"][0], "validation")
    row = losses.by_position({"a": record}).row(3, named=True)
    assert row["position"] == 4
    assert row["loss"] == record["by_position"]["mean"][3]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.959964 * record["by_position"]["error"][3], rel=1e-6)


def test_every_category_of_every_run_is_a_row(table: pl.DataFrame):
    done = table.filter(pl.col("state") == "done")
    frame = losses.by_category(
        {row["name"]: collect.evaluation(row["path"], "validation") for row in done.iter_rows(named=True)}
    )
    assert frame.group_by("run").len().sort("len")["len"].to_list() == [1, 2, 11]
    row = frame.row(-1, named=True)
    assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
