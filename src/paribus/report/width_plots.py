"""What width changes: the best eta, and how far the layers move."""

import altair as alt
import polars as pl

from paribus.analysis.axes import ETA, WIDTH, with_facts
from paribus.analysis.final import finals
from paribus.evals.statistics import over_seeds
from paribus.report.blocks import Figure
from paribus.report.charts import Axis, curves, encode_x, encode_y, layer, series_encodings
from paribus.report.tables import Tables, about_panels, grid_runs, ids, in_panels, repeated

COORDINATES = "coordinates/"


def width_transfer(tables: Tables) -> Figure | None:
    """Final loss against eta, a curve a width, each with its optimum."""
    runs = grid_runs(tables.runs)
    axes = (WIDTH, ETA)
    if WIDTH not in runs.columns or (drawn := in_panels(runs, axes, axes)).is_empty():
        return None
    trained = finals(drawn, ("setting", *axes)).filter(pl.col("label").is_in(["stable", "catapult"]))
    if trained.is_empty():
        return None
    order = drawn.select("setting").unique(maintain_order=True)
    lines = order.join(trained, on="setting", maintain_order="left_right").select(
        "setting", pl.col(WIDTH).alias("width"), "loss", "loss_low", "loss_high", log2_eta=pl.col(ETA).log(2)
    )
    lines = lines.with_columns(is_marked=pl.col("loss") == pl.col("loss").min().over("setting", "width"))
    x, y = Axis("log2_eta", "log2 η"), Axis("loss", "final loss", "log10")
    chart = _marked(curves(lines, x, y, "width"), lines, x, y, "width", "best")
    caption = "Mean training loss of the last steps, over seeds; a diamond marks the best η of each width that was run."
    return Figure(
        "width_transfer",
        repeated(chart, drawn, shared_y=False),
        "Transfer of η across width",
        caption + about_panels(drawn, runs, axes),
        ids(drawn.join(trained, on=["setting", *axes], how="semi")),
    )


def coordinate_check(tables: Tables) -> Figure | None:
    """The change of each layer's activations since step 0, at the last evaluation, against width."""
    runs = grid_runs(tables.runs)
    measured = tables.evaluations
    if WIDTH not in runs.columns or measured.is_empty():
        return None
    measured = measured.filter(pl.col("metric").str.starts_with(COORDINATES), pl.col("value") > 0)
    probed = runs.filter(pl.col("id").is_in(measured["id"].unique().implode()))
    axes = (WIDTH,)
    if probed.is_empty() or (drawn := in_panels(probed, axes, axes)).is_empty():
        return None
    last = with_facts(measured, drawn, "setting", WIDTH).filter(
        pl.col("step") == pl.col("step").max().over("id", "metric")
    )
    rows = [
        {"setting": setting, "width": width, "layer": metric.removeprefix(COORDINATES)}
        | over_seeds(group["value"].to_list()).columns("change")
        for (setting, metric, width), group in last.sort("metric", WIDTH).group_by(
            "setting", "metric", WIDTH, maintain_order=True
        )
    ]
    points = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col("^change.*$").cast(pl.Float64))
    ordered = (
        drawn.select("setting").unique(maintain_order=True).join(points, on="setting", maintain_order="left_right")
    )
    ordered = ordered.with_columns(is_marked=pl.lit(True))
    x, y = Axis("width", "width N", "log2", ",d"), Axis("change", "change since step 0 (RMS)", "log10")
    chart = _marked(curves(ordered, x, y, "layer"), ordered, x, y, "layer", "estimate")
    caption = (
        "Root mean square over held-out samples and units. Under a parameterization that is right, no layer's change "
        "depends on the width: lines are level."
    )
    return Figure(
        "coordinate_check",
        repeated(chart, drawn),
        "Coordinate check",
        caption + about_panels(drawn, probed, axes),
        ids(drawn),
    )


def _marked(lines: alt.LayerChart, frame: pl.DataFrame, x: Axis, y: Axis, by: str, style: str) -> alt.Chart:
    """Curves with a mark at each of their rows where `is_marked`; of the same frame, so that panels can repeat it."""
    marks = alt.Chart(lines.data).mark_point(style=style)
    marks = marks.transform_filter(alt.FieldEqualPredicate(field="is_marked", equal=True))
    return layer(lines, marks.encode(x=encode_x(frame, x), y=encode_y(y), **series_encodings(frame, by, None)))
