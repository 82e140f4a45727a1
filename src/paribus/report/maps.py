"""Maps of a sweep: one cell a setting over two logarithmic quantities, with the border of divergence and theory's lines."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from paribus.analysis.final import first_divergence
from paribus.report.charts import Axis, nominal_tooltip, responsive, together, tooltip_of

BORDER = "first divergence"  # the name of the border in the legend
_DASHES = ([1, 0], [6, 4], [2, 4], [9, 3, 2, 3])  # of the border, then of theory's lines


class Line(NamedTuple):
    """A line over a map, straight between its points (x, y), which are in the units of the map's quantities."""

    label: str
    points: Sequence[tuple[float, float]]
    panel: str | None = None  # the one panel that it belongs to; None: all


def sweep_map(
    finals: pl.DataFrame,
    x: Axis,
    y: Axis,
    value: Axis,
    facts: Sequence[Axis | str] = (),
    lines: Sequence[Line] = (),
    panels: str | None = None,
) -> alt.Chart:
    """Draw the rows of `analysis.final.finals` as cells coloured by log10 of a value; x and y are of scale log2 or log10.

    Settings that diverged are grey, what did not run is empty. The border of divergence stands in each column half-way,
    in the logarithm, between the first y that diverged and the last that ran below it. `facts` are columns that the
    pointer shows too. With `panels`, a column, the chart can be given to `small_multiples` by it."""
    frame = _layout(finals, x, y, value, lines, panels)
    source = alt.Chart(frame)
    position = {"x": _position("left", x, frame), "y": _position("bottom", y, frame)}
    extent = position | {"x2": alt.X2("right"), "y2": alt.Y2("top")}
    tips = [nominal_tooltip(fact, fact) if isinstance(fact, str) else tooltip_of(fact) for fact in (x, y, *facts)]
    cells = source.mark_rect(style="cell").encode(
        **extent, color=_colour(finals, value), tooltip=[*tips, tooltip_of(value)]
    )
    diverged = source.mark_rect(style="diverged").encode(**extent, tooltip=tips)
    layers = [cells.transform_filter(_is("cell")), diverged.transform_filter(_is("diverged"))]
    names = [name for name in (BORDER, *dict.fromkeys(line.label for line in lines)) if name in frame["line"]]
    if names:
        path = {**position, "detail": ["line:N", "piece:N"], "order": alt.Order("order:Q")}
        dashes = [_DASHES[0 if name == BORDER else 1 + number % 3] for number, name in enumerate(names)]
        legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=400, columns=2)
        dash = alt.StrokeDash(
            "line", type="nominal", title=None, scale=alt.Scale(domain=names, range=dashes), legend=legend
        )
        for style, encoding in (("border-halo", path), ("border", path | {"strokeDash": dash})):
            layers.append(source.mark_line(style=style, clip=True).encode(**encoding).transform_filter(_is("line")))
    return responsive(together(layers))


def _layout(
    finals: pl.DataFrame, x: Axis, y: Axis, value: Axis, lines: Sequence[Line], panels: str | None
) -> pl.DataFrame:
    """Everything on the map as one frame, so that it can be repeated by panel: cells (`part` cell or diverged, with their
    edges left, right, bottom, top in exponents and `log_value`), and the points of lines (part line; left, bottom)."""
    sides = [_edges(finals, x), _edges(finals, y)]
    measured = pl.col(value.field)
    cells = finals.with_columns(
        part=pl.when(pl.col("label") == "diverged").then(pl.lit("diverged")).otherwise(pl.lit("cell")),
        log_value=measured.clip(lower_bound=measured.filter(measured > 0).min()).log10(),
        **{
            side: pl.col(axis.field).replace_strict({at: edges[at][number] for at in edges}, return_dtype=pl.Float64)
            for axis, edges, ends in zip((x, y), sides, (("left", "right"), ("bottom", "top")), strict=True)
            for number, side in enumerate(ends)
        },
    )
    parts = [cells]
    for name in finals[panels].unique(maintain_order=True) if panels else [None]:
        of_panel = finals.filter(pl.col(panels) == name) if panels else finals
        here = [line for line in lines if line.panel in (None, name)]
        points = [*_border(of_panel, x, y, *sides), *_theory(here, x, y)]
        schema = {"line": pl.String, "piece": pl.Int64, "left": pl.Float64, "bottom": pl.Float64}
        drawn = pl.DataFrame(points, schema, orient="row").with_row_index("order").with_columns(part=pl.lit("line"))
        parts.append(drawn.with_columns(pl.lit(name).alias(panels)) if panels else drawn)
    return pl.concat(parts, how="diagonal_relaxed")


def _border(
    finals: pl.DataFrame, x: Axis, y: Axis, columns: dict[float, tuple[float, float]], rows: dict[float, Any]
) -> list[tuple[str, int, float, float]]:
    """The steps of the border as points (line, piece, x, y); a column without a divergence breaks it in two pieces."""
    points: list[tuple[str, int, float, float]] = []
    piece = 0
    for at, last, first in first_divergence(finals, x.field, y.field).iter_rows():
        level = rows[first][0] if last is None else (_exponent(last, y) + _exponent(first, y)) / 2
        left, right = columns[at]
        piece += bool(points) and points[-1][2] != left
        points += [(BORDER, piece, left, level), (BORDER, piece, right, level)]
    return points


def _theory(lines: Sequence[Line], x: Axis, y: Axis) -> list[tuple[str, int, float, float]]:
    return [(line.label, 0, _exponent(at, x), _exponent(level, y)) for line in lines for at, level in line.points]


def _edges(finals: pl.DataFrame, axis: Axis) -> dict[float, tuple[float, float]]:
    """Each value of a column -> the exponents where its cells begin and end: half-way to its neighbours."""
    values = finals[axis.field].unique().sort().to_list()
    at = [_exponent(value, axis) for value in values]
    inner = [(a + b) / 2 for a, b in itertools.pairwise(at)]
    ends = [2 * at[0] - inner[0], *inner, 2 * at[-1] - inner[-1]] if inner else [at[0] - 0.5, at[0] + 0.5]
    return dict(zip(values, itertools.pairwise(ends), strict=True))


def _exponent(value: float, axis: Axis) -> float:
    return math.log2(value) if axis.scale == "log2" else math.log10(value)


def _position(field: str, axis: Axis, frame: pl.DataFrame) -> Any:
    """A channel in exponents; the domain is that of the cells, whatever lines leave it."""
    far = {"left": "right", "bottom": "top"}[field]
    domain = [frame[field].filter(frame["part"] != "line").min(), frame[far].max()]
    scale = alt.Scale(domain=domain, nice=False, zero=False, padding=0)
    channel = alt.X if field == "left" else alt.Y
    return channel(
        field,
        type="quantitative",
        title=f"{axis.scale} {axis.name}",
        scale=scale,
        axis=alt.Axis(grid=False, format="d", tickMinStep=1),
    )


def _colour(finals: pl.DataFrame, value: Axis) -> alt.Color:
    """The scale spans what trained; a value that ended above its start is shown in the colour of the highest."""
    trained = finals.filter(pl.col("label").is_in(["stable", "catapult"]), pl.col(value.field) > 0)
    shown = (trained if len(trained) else finals.filter(pl.col(value.field) > 0))[value.field].log10()
    domain = {"domain": [shown.min(), shown.max()], "clamp": True} if shown.n_unique() > 1 else {}
    legend = alt.Legend(offset=14, titlePadding=18, format=".2~f")
    return alt.Color(
        "log_value",
        type="quantitative",
        title=f"log10 {value.name}",
        scale=alt.Scale(range="heatmap", **domain),
        legend=legend,
    )


def _is(part: str) -> alt.FieldEqualPredicate:
    return alt.FieldEqualPredicate(field="part", equal=part)
