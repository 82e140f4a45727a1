"""Oracles: the border that the fabricated sweep's formula has, and a tiling of the plane."""

import math
from typing import Any

import altair as alt
import polars as pl
import pytest
import vl_convert

from paribus.analysis.final import finals
from paribus.report.charts import Axis, small_multiples
from paribus.report.maps import BORDER, Line, sweep_map
from paribus.report.page import paper_spec
from paribus.report.trajectories import trajectories
from sweep_tables import sweep

B, ETA, LOSS = Axis("train.batch_size", "B", "log2"), Axis("train.eta", "η", "log2"), Axis("loss", "final loss")
GAMMA = Axis("model.gamma", "γ", "log10")
TABLES = sweep()


def rows(chart: alt.Chart) -> list[dict[str, Any]]:
    (data,) = paper_spec(chart)["datasets"].values()
    return list(data)


def border(chart: alt.Chart) -> list[tuple[float, float]]:
    return [(row["left"], row["bottom"]) for row in rows(chart) if row["line"] == BORDER]


def test_the_border_stands_between_the_last_that_trained_and_the_first_that_diverged():
    """eta_max = 2 min(1, B / 8) on the grids B = 1, 4, 16, 64 and eta = 2^-6..2^3."""
    expected = [(-1, -1.5), (1, -1.5), (1, 0.5), (3, 0.5), (3, 1.5), (5, 1.5), (5, 1.5), (7, 1.5)]
    assert border(sweep_map(finals(TABLES.runs), B, ETA, LOSS)) == expected


def test_the_border_is_broken_where_nothing_diverged_and_lies_below_a_column_of_nothing_else():
    size, eta = pl.col("train.batch_size"), pl.col("train.eta")
    runs = TABLES.runs.filter(
        pl.when(size == 4).then(pl.col("label") != "diverged").when(size == 64).then(eta > 2).otherwise(True)
    )
    points = [row for row in rows(sweep_map(finals(runs), B, ETA, LOSS)) if row["line"] == BORDER]
    assert [row["piece"] for row in points] == [0, 0, 1, 1, 1, 1]
    assert [row["left"] for row in points] == [-1, 1, 3, 5, 5, 7]
    assert [row["bottom"] for row in points] == [-1.5, -1.5, 1.5, 1.5, 1.5, 1.5]


def test_cells_tile_the_plane_on_an_irregular_grid_and_what_did_not_run_is_empty():
    runs = TABLES.runs.filter(pl.col("train.eta") != 0.25, pl.col("id") != TABLES.runs["id"][5])
    chart = sweep_map(finals(runs), B, ETA, LOSS)
    cells = [row for row in rows(chart) if row["part"] != "line"]
    assert len(cells) == len(runs)
    heights = {row["bottom"]: row["top"] for row in cells}
    bottoms = sorted(heights)
    assert [heights[low] for low in bottoms[:-1]] == bottoms[1:]
    assert (bottoms[0], heights[bottoms[-1]]) == (-6.5, 3.5)
    assert -2.5 not in bottoms, "the neighbours of the missing 2^-2 meet at it"
    assert -2.0 in bottoms
    svg = vl_convert.vegalite_to_svg(paper_spec(chart))
    assert svg.count('aria-roledescription="rect mark"') == len(runs)
    diverged = int((runs["label"] == "diverged").sum())
    assert svg.count('fill-opacity="0.4"') == diverged > 0


def test_the_colour_is_the_logarithm_and_a_loss_of_zero_has_the_colour_of_the_least():
    table = finals(TABLES.runs)
    zero = table.with_columns(loss=pl.when(pl.col("train.eta") == 2.0**-6).then(0.0).otherwise(pl.col("loss")))
    cells = [row for row in rows(sweep_map(zero, B, ETA, LOSS)) if row["part"] == "cell"]
    least = math.log10(zero.filter(pl.col("loss") > 0)["loss"].min())
    for row in cells:
        assert row["log_value"] == pytest.approx(math.log10(row["loss"]) if row["loss"] else least)


def test_lines_are_in_the_maps_exponents_and_in_their_panel_alone():
    runs = sweep(batch_sizes=(64,), gammas=(0.1, 1.0, 10.0), widths=(32, 64)).runs
    cells = finals(runs, ("model.width", "model.gamma", "train.eta")).with_columns(
        panel=pl.format("N = {}", "model.width")
    )
    lines = [Line("both", [(0.1, 0.25), (10.0, 4.0)]), Line("one", [(1.0, 1.0), (10.0, 8.0)], panel="N = 64")]
    chart = small_multiples(sweep_map(cells, GAMMA, ETA, LOSS, lines=lines, panels="panel"), "panel")
    drawn = {}
    for row in rows(chart):
        if row["part"] == "line" and row["line"] != BORDER:
            drawn.setdefault((row["panel"], row["line"]), []).append((row["left"], row["bottom"]))
    assert drawn == {
        ("N = 32", "both"): [(-1.0, -2.0), (1.0, 2.0)],
        ("N = 64", "both"): [(-1.0, -2.0), (1.0, 2.0)],
        ("N = 64", "one"): [(0.0, 0.0), (1.0, 3.0)],
    }
    svg = vl_convert.vegalite_to_svg(paper_spec(chart))
    assert [svg.count(f">{name}</text>") for name in (BORDER, "both", "one", "N = 32")] == [1, 1, 1, 1]


def test_each_run_is_one_line_in_the_colour_of_its_quantity():
    losses = TABLES.losses.join(TABLES.runs, on="id").filter(pl.col("step") > 0, pl.col("label") == "stable")
    chart = trajectories(losses, Axis("step", scale="log10"), Axis("loss", scale="log10"), ETA)
    svg = vl_convert.vegalite_to_svg(paper_spec(chart))
    assert svg.count('aria-roledescription="line mark"') == losses["id"].n_unique()
    colours = {part.split('"', 1)[0] for part in svg.split('style="mark"') for part in part.split('stroke="')[1:]}
    assert len([colour for colour in colours if colour.startswith("rgb")]) >= losses["train.eta"].n_unique()
    assert {round(row["shade"], 9) for row in rows(chart)} == {float(math.log2(e)) for e in losses["train.eta"]}
