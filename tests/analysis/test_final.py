"""Oracles: the formula of the fabricated sweep, and Student's t of three numbers by hand."""

import math

import polars as pl
import pytest

from paribus.analysis.final import finals, first_divergence, laid_out
from paribus.analysis.settings import protocols, varying, with_setting
from paribus.errors import DataError
from sweep_tables import eta_max, sweep

TABLES = sweep(seeds=(0, 1, 2))


def test_replicates_are_averaged_with_students_interval():
    table = finals(TABLES.runs)
    row = table.row(by_predicate=(pl.col("train.batch_size") == 4) & (pl.col("train.eta") == 0.25), named=True)
    runs = TABLES.runs.filter((pl.col("train.batch_size") == 4) & (pl.col("train.eta") == 0.25))
    mean, deviation = runs["final/loss"].mean(), runs["final/loss"].std()
    half = 4.302652729911275 * deviation / math.sqrt(3)  # t of 2 degrees of freedom at .975 (Abramowitz & Stegun 26.10)
    assert row["loss"] == pytest.approx(mean)
    assert (row["loss_low"], row["loss_high"]) == pytest.approx((mean - half, mean + half))
    assert (row["seeds"], row["diverged"], row["label"]) == (3, 0, "stable")


def test_one_diverged_seed_is_enough_and_an_unfinished_run_is_no_row():
    at_quarter = TABLES.runs.filter(pl.col("train.eta") == 0.25)
    first, other = (at_quarter.filter(pl.col("train.batch_size") == size)["id"][0] for size in (4, 16))
    changed = TABLES.runs.with_columns(
        label=pl.when(pl.col("id") == first).then(pl.lit("diverged")).otherwise(pl.col("label")),
    ).with_columns(
        pl.when(pl.col("id").is_in([first, other])).then(None).otherwise(pl.col("final/loss")).alias("final/loss"),
        label=pl.when(pl.col("id") == other).then(None).otherwise(pl.col("label")),
    )
    table = finals(changed).filter(pl.col("train.eta") == 0.25)
    rows = {row["train.batch_size"]: row for row in table.iter_rows(named=True)}
    assert (rows[4]["label"], rows[4]["diverged"], rows[4]["seeds"], rows[4]["loss"]) == ("diverged", 1, 3, None)
    assert (rows[16]["label"], rows[16]["diverged"], rows[16]["seeds"]) == ("stable", 0, 2)


def test_the_table_has_exponents_for_rows_and_columns():
    wide = laid_out(finals(TABLES.runs))
    assert wide.columns == ["log2_B", *(str(e) for e in range(-6, 4))]
    assert wide["log2_B"].to_list() == [0, 2, 4, 6]
    long = finals(TABLES.runs)
    at = long.row(by_predicate=(pl.col("train.batch_size") == 16) & (pl.col("train.eta") == 0.5), named=True)
    assert wide.row(2, named=True)["-1"] == at["loss"]
    assert wide.row(0, named=True)["3"] is None


def test_divergence_begins_where_the_formula_says():
    table = first_divergence(finals(TABLES.runs))
    for row in table.iter_rows(named=True):
        highest = eta_max(1.0, row["train.batch_size"])
        assert row["last_below"] <= highest < row["first_diverged"] == 2 * row["last_below"]
    assert table["train.batch_size"].to_list() == [1, 4, 16, 64]


def test_a_column_without_divergence_has_no_row_and_one_of_nothing_else_has_no_lower_end():
    runs = TABLES.runs.filter(
        (pl.col("train.batch_size") == 1) & (pl.col("train.eta") > 1)
        | (pl.col("train.batch_size") == 64) & (pl.col("train.eta") < 1)
    )
    assert first_divergence(finals(runs)).rows() == [(1, None, 2.0)]


def test_runs_that_differ_by_more_than_seeds_are_no_replicates():
    runs = sweep(gammas=(0.5, 2.0), batch_sizes=(4,)).runs
    with pytest.raises(DataError, match=r"differ in model\.gamma \(0\.5, 2\.0\)"):
        finals(runs)
    assert len(finals(runs, ("model.gamma", "train.eta"))) == len(runs)


def test_settings_name_what_differs_and_nothing_else():
    runs = pl.concat([sweep(gammas=(10.0, 0.1), widths=(64, 128), steps=20).runs, sweep(seeds=(7,), steps=20).runs])
    axes = ("train.batch_size", "train.eta")
    assert varying(runs, axes) == ["model.gamma", "model.width"]
    assert varying(runs, (*axes, "model.gamma", "model.width")) == []
    labels = with_setting(runs, axes)["setting"].unique(maintain_order=True).to_list()
    assert labels[:2] == ["gamma = 0.1, width = 64", "gamma = 0.1, width = 128"]
    assert labels[-1] == "gamma = 10, width = 128"
    assert set(with_setting(runs.head(1))["setting"]) == {""}


def test_a_budget_that_follows_from_the_batch_size_is_no_setting():
    runs = sweep(steps=20).runs.with_columns((1024 // pl.col("train.batch_size")).alias("train.budget.steps"))
    assert varying(runs, ("train.batch_size", "train.eta")) == []
    assert varying(runs, ("train.eta",)) == ["train.batch_size", "train.budget.steps"]


def test_fresh_samples_and_fixed_data_are_two_protocols():
    time, data = sweep(steps=20).runs, sweep(steps=20, num_samples=128).runs
    images = time.with_columns(pl.lit("images").alias("data.kind"))
    parts = protocols(pl.concat([time, data, images], how="vertical_relaxed"))
    assert {name: len(part) for name, part in parts.items()} == {"fixed time": 40, "fixed data": 80}
    assert list(protocols(time)) == ["fixed time"]
    assert protocols(time.drop("data.num_samples")).keys() == {"fixed time"}
