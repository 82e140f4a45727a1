"""Many curves at once: one line a run, coloured by a quantity on a continuous scale, named by the pointer."""

import zlib
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from paribus.report.charts import (
    HOVER,
    Axis,
    encode_x,
    encode_y,
    escape,
    nearest,
    nominal_tooltip,
    responsive,
    together,
    tooltip_of,
)


def trajectories(
    frame: pl.DataFrame, x: Axis, y: Axis, colour: Axis, facts: Sequence[Axis | str] = (), run: str = "id"
) -> alt.Chart:
    """Draw one line for each value of `run`. `facts` are columns that the pointer shows besides x and y.

    A colour of scale log2 or log10 is drawn and labelled by its exponent."""
    key = f"{zlib.crc32(repr((x, y, colour, frame.columns)).encode()):08x}"
    shade, title = _shade(colour)
    source = alt.Chart(frame.with_columns(shade=shade))
    legend = alt.Legend(titlePadding=18, format=".3~g")
    encodings: dict[str, Any] = {"x": encode_x(frame, x), "y": encode_y(y)} | {
        "color": alt.Color(
            "shade", type="quantitative", title=title, scale=alt.Scale(range="ramp", zero=False), legend=legend
        ),
        "detail": alt.Detail(escape(run), type="nominal"),
    }
    lines = source.mark_line(style="trajectory").encode(**encodings)
    near = f"near_{key}"
    shown = {"condition": {"param": near, "value": 1, "empty": False}, "value": 0}
    tips = [nominal_tooltip(fact, fact) if isinstance(fact, str) else tooltip_of(fact) for fact in facts]
    # hollow: with a filled point the legend would name two channels, and a bar of colours can name one
    dots = source.mark_point(style="hover-point", filled=False).encode(
        **encodings, opacity=shown, tooltip=[*tips, tooltip_of(x), tooltip_of(y)]
    )
    dots = dots.properties(name=f"{HOVER}_dots_{key}")
    return responsive(together([lines, dots], [nearest(near, ("x", "y"), f"{HOVER}_dots_{key}")]))


def _shade(colour: Axis) -> tuple[pl.Expr, str]:
    value = pl.col(colour.field)
    match colour.scale:
        case "log2":
            return value.log(2), f"log2 {colour.name}"
        case "log10":
            return value.log10(), f"log10 {colour.name}"
        case _:
            return value.cast(pl.Float64), colour.name
