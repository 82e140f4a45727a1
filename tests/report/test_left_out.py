"""Oracle: the labels and settings of fabricated sweeps, counted with filters of their own."""

import polars as pl
import pytest

from paribus.report.left_out import left_out
from paribus.report.plots import plot
from paribus.report.tables import Tables
from sweep_tables import eta_max, sweep

ETAS = tuple(2.0**e for e in range(-6, 3))


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(*sweep(batch_sizes=(16, 64), etas=ETAS))


def caption(tables: Tables, name: str) -> str:
    (figure,) = plot(tables, [name])
    return figure.caption


def test_curves_count_the_runs_that_diverged_and_maps_show_all(tables: Tables):
    diverged = sum(eta > eta_max(1.0, size) for size in (16, 64) for eta in ETAS)
    assert diverged
    for name in ("losscurve_grid", "losscurve_temp_samples"):
        assert caption(tables, name).endswith(f"Left out: {diverged} diverged.")
    assert "Left out" not in caption(tables, "heatmap_batch")


def test_other_settings_and_unfinished_runs_are_counted_apart(tables: Tables):
    lonely = sweep(batch_sizes=(128,), etas=(0.25,), gammas=(10.0,)).runs.with_columns(id=pl.lit("lonely"))
    waiting = lonely.with_columns(id=pl.lit("waiting"), label=pl.lit(None, pl.String))
    both = tables._replace(runs=pl.concat([tables.runs, lonely, waiting], how="diagonal_relaxed"))
    assert caption(both, "heatmap_batch").endswith("Left out: 1 of other settings, 1 not finished.")


def test_other_engines_and_unreadable_directories_have_a_reason_of_their_own(tables: Tables):
    runs = tables.runs.with_columns(pl.lit("mlp").alias("model.kind"))
    others = pl.DataFrame(
        {
            "id": ["a", "b"],
            "state": ["done", "unreadable"],
            "model.kind": ["preset", None],
            "train.batch_size": [64, None],
        }
    )
    everything = pl.concat([runs, others], how="diagonal_relaxed")
    assert left_out(everything, runs["id"].to_list()) == "1 not of the grid engine, 1 unreadable"
    assert left_out(runs, runs["id"].to_list()) == ""
