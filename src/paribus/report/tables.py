"""The tables that plots work from, and what plots share: runs of the grid engine, panels, numbers as labels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import polars as pl

from paribus.analysis.axes import BATCH_SIZE, ETA
from paribus.analysis.settings import with_setting
from paribus.report.cells import number
from paribus.report.charts import small_multiples

MAX_PANELS = 24  # of one figure: beyond, a page of panels is no longer looked at
MAX_POINTS = 12_000  # of one figure, which keeps a page below a few MB
_NEEDED = ("id", "label", ETA, BATCH_SIZE, "initial/loss", "final/loss")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Tables(NamedTuple):
    """runs: one row a run. losses: (id, step, loss). evaluations: (id, step, epoch, metric, value). See `analysis`."""

    runs: pl.DataFrame
    losses: pl.DataFrame
    evaluations: pl.DataFrame


def grid_runs(runs: pl.DataFrame) -> pl.DataFrame:
    """The runs of the grid engine that ended; none where a table has others only."""
    if not set(_NEEDED) <= set(runs.columns):
        return pl.DataFrame(schema=dict.fromkeys(_NEEDED, pl.String))
    return runs.filter(pl.col(ETA).is_not_null(), pl.col("label").is_not_null())


def of_grid(runs: pl.DataFrame) -> pl.Expr:
    """Whether each row of the table is a run of the grid engine, ended or not."""
    return (
        pl.col("model.kind").eq("mlp").fill_null(False) if "model.kind" in runs.columns else pl.lit(ETA in runs.columns)
    )


def in_panels(runs: pl.DataFrame, axes: Sequence[str], least: Sequence[str]) -> pl.DataFrame:
    """Add `setting`, what runs differ in apart from `axes`; of settings that have two values at least of each of `least`.

    At most MAX_PANELS settings, the first ones."""
    labelled = with_setting(runs, axes)
    varied = pl.all_horizontal(pl.lit(True), *(pl.col(name).n_unique().over("setting") > 1 for name in least))
    drawn = labelled.filter(varied)
    return drawn.filter(
        pl.col("setting").is_in(drawn["setting"].unique(maintain_order=True).head(MAX_PANELS).implode())
    )


def ids(drawn: pl.DataFrame) -> list[str]:
    """The runs that a figure shows."""
    return list(drawn["id"])


def repeated(chart: alt.Chart, runs: pl.DataFrame, shared_y: bool = True) -> alt.Chart:
    """A chart whose frame has `setting`, in a panel a setting where there are several."""
    return small_multiples(chart, "setting", shared_y=shared_y) if runs["setting"].n_unique() > 1 else chart


def about_panels(runs: pl.DataFrame, all_runs: pl.DataFrame, axes: Sequence[str]) -> str:
    """A sentence for the caption: which setting is shown, or that not all of them are."""
    shown, there = runs["setting"].n_unique(), with_setting(all_runs, axes)["setting"].n_unique()
    if shown < there and shown == MAX_PANELS:
        return f" The first {shown} of {there} settings are shown: choose runs to see the others."
    return ""


def power(value: float) -> str:
    """A number as a power of two where it is one below 1 or a large one: 2⁻⁵, 64, 0.05."""
    exponent = math.log2(value)
    if exponent == round(exponent) and not 0 <= exponent <= 10:
        return "2" + str(round(exponent)).translate(_RAISED)
    return number(value)
