"""The figures of a report as Altair charts: a frame and the names of its columns in, one responsive chart out.

Colours and type come from `theme`; `layer` lays charts over one another, `small_multiples` repeats one for each value.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
import polars as pl

HEIGHT = 320
PAPER_WIDTH = 520  # px of a figure in a file of its own, where the page gives it the width of its column
HOVER = "hover"  # layers whose name begins so exist only on a screen: they are left out of the files for papers
MAX_COMPARED = 14  # series that one tooltip lists side by side
_DISTINCT = 7  # categorical colours; later groups repeat them with dashes
MAX_NAMED = 40  # groups beyond which a legend would be longer than its figure: a line then tells its name itself
_IS_DECADE = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6"
_DODGE = 7  # px between the points of different groups at one x
_DASHES = ([1, 0], [6, 3], [2, 3])
_BROAD = {"strokeWidth": 7, "strokeOpacity": 0.42}


class Axis(NamedTuple):
    """A column of the frame, and how it is drawn."""

    field: str
    title: str | None = None  # None: the field's name; "": none
    scale: Literal["linear", "log2", "log10", "symlog"] = "linear"  # symlog: of counts from 0, as log(1 + x)
    format: str = ".4~f"  # d3-format of the tooltip
    domain: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        return self.field if self.title is None else self.title


class Kinds(NamedTuple):
    """The column that tells what each line of a group is: its first value is drawn solid, the others dashed."""

    field: str
    beneath: str | None = None  # the value drawn broad and pale below the others: what they may well coincide with


def curves(
    frame: pl.DataFrame,
    x: Axis,
    y: Axis,
    by: str | None = None,
    band: tuple[str, str] | None = None,
    kinds: Kinds | None = None,
) -> alt.Chart:
    """Draw one line a group and kind, with a confidence band where `band` names its two columns.

    Numeric groups are shaded in order, named ones get distinct colours; a single one needs no legend. Pointing at a
    position compares every line there."""
    kinds = kinds if kinds and frame[kinds.field].n_unique() > 1 else None
    frame = _with_series(frame, by, kinds)
    source = alt.Chart(frame)
    key = f"{zlib.crc32(repr((x, y, by, kinds, frame.columns)).encode()):08x}"
    focus = f"focus_{key}" if by and _has_legend(frame[by]) else None
    encodings = {"x": encode_x(frame, x), "y": encode_y(y), **series_encodings(frame, by, kinds)}
    encoded = {**encodings, "opacity": _faded(focus, 1.0, 0.15)}
    lines = [source.mark_line().encode(**encoded).properties(name=f"lines_{key}")]
    if kinds and kinds.beneath:
        is_beneath = alt.FieldEqualPredicate(field=escape(kinds.field), equal=kinds.beneath)
        lines[0] = lines[0].transform_filter({"not": is_beneath})
        lines.insert(0, source.mark_line(**_BROAD).encode(**encoded).transform_filter(is_beneath))
    if by and frame[by].n_unique() > MAX_NAMED:
        many = [line.encode(opacity=alt.value(0.5), tooltip=nominal_tooltip("series", by)) for line in lines]
        return responsive(together(many))
    hover, params = _hover(source, frame, key, x, y, encodings)
    bands = [_band(source, y, band, focus, encodings)] if band else []
    if focus:
        params.append(_focus(focus, str(by), f"lines_{key}"))
    return responsive(together([*bands, *lines, *hover], params))


def points(
    frame: pl.DataFrame,
    x: Axis,
    y: Axis,
    by: str | None = None,
    interval: tuple[str, str] | None = None,
    faint: bool = False,
) -> alt.Chart:
    """Draw one point a row, with an error bar where `interval` names its two columns; `faint`: single seeds, say.

    Groups stand beside one another, so that their error bars do not hide each other. Where a group has one point at each
    x, a line joins them."""
    colour = _without_kinds(series_encodings(frame, by, None))
    position = {"x": encode_x(frame, x), "y": encode_y(y)}
    groups = frame[by].unique(maintain_order=True).to_list() if by else [None]
    is_joined = not faint and not frame.select(x.field, *([by] if by else [])).is_duplicated().any()
    tooltip = [*([nominal_tooltip(by, by)] if by else []), tooltip_of(x), tooltip_of(y)]
    if interval:
        low, high = (Axis(field, title, format=y.format) for field, title in zip(interval, ("from", "to"), strict=True))
        tooltip += [tooltip_of(low), tooltip_of(high)]
    layers = []
    for number, group in enumerate(groups):
        of_group = frame.filter(pl.col(by) == group) if by else frame
        source = alt.Chart(frame)
        if by:
            source = source.transform_filter(alt.FieldEqualPredicate(field=escape(by), equal=group))
        shift = {"xOffset": _DODGE * (number - (len(groups) - 1) / 2)}
        if is_joined:
            layers.append(source.mark_line(**shift).encode(**position, **colour))
        if interval and not of_group.drop_nulls(list(interval)).is_empty():
            edges = {"y": encode_y(y._replace(field=low.field, title=y.name)), "y2": alt.Y2(escape(high.field))}
            layers.append(source.mark_rule(style="error", **shift).encode(**(position | edges), **colour))
        mark = source.mark_point(style="seed" if faint else "estimate", **shift)
        layers.append(mark.encode(**position, **colour, tooltip=tooltip))
    return responsive(together(layers))


def envelope(frame: pl.DataFrame, x: Axis, y: Axis, low: str, high: str) -> alt.Chart:
    """Shade the region between two columns: what theory allows. `y` gives the axis its title."""
    return alt.Chart(frame).mark_area(style="envelope").encode(
        x=encode_x(frame, x), y=encode_y(y._replace(field=low, title=y.name)), y2=alt.Y2(escape(high))
    )  # fmt: skip


def theory(frame: pl.DataFrame, x: Axis, y: Axis, label: str) -> alt.Chart:
    """Draw one dashed line without a group: a prediction to hold the measurements against, named at its right end."""
    source = alt.Chart(frame)
    position = {"x": encode_x(frame, x), "y": encode_y(y)}
    line = source.mark_line(style="theory").encode(**position)
    last = alt.Chart(frame.sort(x.field).tail(1)).mark_text(style="theory-label", align="right", dy=-9)
    return responsive(together([line, last.encode(**position, text=alt.value(label))]))


def level(value: float, y: Axis) -> alt.Chart:
    """Draw one dashed horizontal line: a floor, a ceiling, zero. The figure's caption names it, where no mark crosses it."""
    return responsive(alt.Chart(pl.DataFrame({y.field: [value]})).mark_rule(style="theory").encode(y=encode_y(y)))


def heat_map(
    frame: pl.DataFrame, x: Axis, y: str, value: Axis, diverging: bool = False, rows: Sequence[Any] | None = None
) -> alt.Chart:
    """Draw one cell a row of the frame; `diverging` puts its neutral colour at zero. `rows` orders the values of `y`."""
    order = list(rows) if rows is not None else frame[y].unique(maintain_order=True).to_list()
    scale = alt.Scale(range="heatmap")
    if diverging:
        most = frame.select(pl.col(value.field).abs().max()).item() or 1.0
        scale = alt.Scale(domain=[-most, most], domainMid=0, range="diverging")
    legend = alt.Legend(offset=14, titlePadding=18)  # the bar's first label is centred below its end, towards the title
    if frame[x.field].dtype.is_numeric():
        columns, x_tip = frame[x.field].unique().sort().to_list(), tooltip_of(x._replace(format="~g"))
        x_axis = alt.Axis(values=_ticks(columns), labelOverlap="greedy", labelAngle=0, domain=False)
    else:
        columns, x_tip = frame[x.field].unique(maintain_order=True).to_list(), nominal_tooltip(x.field, x.name)
        x_axis = alt.Axis(labelAngle=-40, labelOverlap=False, domain=False, ticks=False)
    return responsive(
        alt.Chart(frame)
        .mark_rect(style="cell")
        .encode(
            x=alt.X(
                escape(x.field), type="ordinal", sort=columns, title=x.name, axis=x_axis, scale=alt.Scale(padding=0)
            ),
            y=alt.Y(escape(y), type="nominal", sort=order, title=None, scale=alt.Scale(paddingInner=0.06)),
            color=alt.Color(escape(value.field), type="quantitative", title=value.name, scale=scale, legend=legend),
            tooltip=[nominal_tooltip(y, y), x_tip, tooltip_of(value)],
        ),
        height=max(60, 26 * len(order)),
    )


def small_multiples(chart: alt.Chart, by: str, columns: int = 2, shared_y: bool = True) -> alt.Chart:
    """Repeat a chart (of one frame) for each value of a column; the page reduces `columns` where it is narrow."""
    order = chart.data[by].unique(maintain_order=True).to_list()
    has_title = any(unit.encoding.y is not alt.Undefined and unit.encoding.y["title"] for unit in _units(chart))
    header = alt.Header(labelPadding=30 if has_title else 12)  # the axis' title stands between the header and the panel
    facet = alt.Facet(escape(by), type="nominal", sort=order, title=None, header=header)
    many = chart.properties(width=300, height=min(200, chart.height)).facet(facet=facet, columns=columns)
    return many.resolve_axis(x="independent").resolve_scale(y="shared" if shared_y else "independent")


def layer(*charts: alt.Chart) -> alt.Chart:
    """Lay charts that share their axes over one another, the first at the bottom."""
    units = [unit for chart in charts for unit in _units(chart)]
    params = [param for chart in charts if isinstance(chart, alt.LayerChart) for param in _given(chart.params)]
    return responsive(together(units, params))


def responsive(chart: alt.Chart, height: int = HEIGHT) -> alt.Chart:
    """As wide as the column of the page."""
    return chart.properties(width="container", height=height)


def escape(field: str) -> str:
    """Vega-Lite reads dots and brackets in a field's name as a path; a column name has none."""
    for character in "\\.[]'\"":
        field = field.replace(character, "\\" + character)
    return field


def encode_x(frame: pl.DataFrame, x: Axis) -> alt.X:
    grid: dict[str, Any] = {}
    if x.scale in ("log2", "symlog"):
        values = frame[x.field].unique().sort().to_list()
        form = ",d" if x.scale == "symlog" else "~g"  # Vega shortens the numbers of a symlog axis otherwise
        grid = {"values": values, "format": form} if len(values) <= 12 else {"format": "~s"}
    return alt.X(escape(x.field), type="quantitative", title=x.name, scale=_scale(x, nice=False), axis=alt.Axis(**grid))


def encode_y(y: Axis) -> alt.Y:
    """A position; of the lines that a logarithmic axis draws at 1, 2, 3 ... of every decade, its powers of ten stand out."""
    decades = {"condition": {"test": _IS_DECADE, "value": 1}, "value": 0.4}
    axis = alt.Axis(gridOpacity=decades) if y.scale == "log10" else alt.Undefined
    return alt.Y(escape(y.field), type="quantitative", title=y.name, scale=_scale(y), axis=axis)


def _scale(axis: Axis, nice: bool = True) -> alt.Scale:
    domain = {"domain": list(axis.domain), "clamp": True} if axis.domain else {}
    if axis.scale == "linear":
        return alt.Scale(zero=False, nice=nice and not axis.domain, **domain)
    if axis.scale == "symlog":
        return alt.Scale(type="symlog", constant=1, nice=False, padding=14, **domain)
    return alt.Scale(type="log", base=2 if axis.scale == "log2" else 10, nice=False, padding=14, **domain)


def tooltip_of(axis: Axis) -> alt.Tooltip:
    return alt.Tooltip(escape(axis.field), type="quantitative", title=axis.name, format=axis.format)


def nominal_tooltip(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(escape(field), type="nominal", title=title)


def _ticks(positions: list[Any], most: int = 12) -> list[Any]:
    """The first position, then round multiples: 1, 10, 20, ..."""
    if len(positions) <= most or not all(isinstance(position, int) for position in positions):
        return positions
    stride = next(s for s in (2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 10**9) if len(positions) / s <= most)
    return [positions[0], *(position for position in positions[1:] if position % stride == 0)]


def _with_series(frame: pl.DataFrame, by: str | None, kinds: Kinds | None) -> pl.DataFrame:
    """Add the column `series`: the name under which a tooltip lists a line."""
    parts = []
    if by:
        parts.append(
            pl.format(f"{by} = {{}}", pl.col(by)) if frame[by].dtype.is_numeric() else pl.col(by).cast(pl.String)
        )
    if kinds:
        parts.append(pl.col(kinds.field).cast(pl.String))
    if not parts:
        return frame
    # the names become fields of a pivot, where Vega-Lite stumbles over these two characters
    return frame.with_columns(series=pl.concat_str(parts, separator=", ").str.replace_all(r'["\\]', "'"))


def _has_legend(groups: pl.Series) -> bool:
    """One name distinguishes nothing, one number still tells what it is; too many would be longer than their figure."""
    return (groups.dtype.is_numeric() or groups.n_unique() > 1) and groups.n_unique() <= MAX_NAMED


def series_encodings(frame: pl.DataFrame, by: str | None, kinds: Kinds | None) -> dict[str, Any]:
    """Colour by group, in order where groups are numbers; dashes by kind, or for groups beyond the distinct colours."""
    encodings: dict[str, Any] = {}
    if by:
        groups = frame[by].unique(maintain_order=True)
        longest = max(len(str(group)) for group in groups)
        fitting = max(1, int((PAPER_WIDTH - 40) / (42 + 6.5 * longest)))  # the page fits its own width in the same way
        stroke = alt.Legend(symbolType="stroke", symbolStrokeWidth=2.5, columns=fitting)
        stroke = stroke if _has_legend(groups) else None
        if groups.dtype.is_numeric():
            encodings["color"] = alt.Color(escape(by), type="ordinal", title=by, legend=stroke)
        else:
            # the same domain for both channels makes one legend of them
            names = groups.to_list()
            named = {"field": escape(by), "type": "nominal", "sort": names, "title": None, "legend": stroke}
            encodings["color"] = alt.Color(**named, scale=alt.Scale(domain=names))
            if len(names) > _DISTINCT and not kinds:
                dashes = [_DASHES[i // _DISTINCT % len(_DASHES)] for i in range(len(names))]
                encodings["strokeDash"] = alt.StrokeDash(**named, scale=alt.Scale(domain=names, range=dashes))
    return encodings | (_kind_encodings(frame, kinds) if kinds else {})


def _kind_encodings(frame: pl.DataFrame, kinds: Kinds) -> dict[str, Any]:
    """Dashes by kind; where one lies beneath, its width, which Vega-Lite shows in the legend but takes for the lines from
    their marks. Channels of one domain share their legend."""
    names = frame[kinds.field].unique(maintain_order=True).to_list()
    names.sort(key=lambda name: name == kinds.beneath)
    named = {
        "shorthand": escape(kinds.field),
        "type": "ordinal",
        "title": None,
    }  # Vega-Lite sets widths in an order only
    dashes = [_DASHES[0 if name == kinds.beneath else min(i, 2)] for i, name in enumerate(names)]
    encodings = {"strokeDash": alt.StrokeDash(**named, scale=alt.Scale(domain=names, range=dashes))}
    if kinds.beneath:
        widths = [5 if name == kinds.beneath else 2 for name in names]
        encodings["strokeWidth"] = alt.StrokeWidth(**named, scale=alt.Scale(domain=names, range=widths))
    return encodings


def _without_kinds(encodings: dict[str, Any]) -> dict[str, Any]:
    return {channel: value for channel, value in encodings.items() if not channel.startswith("stroke")}


def together(units: Sequence[alt.Chart], params: Sequence[alt.TopLevelSelectionParameter] = ()) -> alt.LayerChart:
    """Altair renames and spreads the parameters of nested layers, so that they clash: keep the layers flat."""
    chart = alt.layer(*units)
    if params:
        chart.params = list(params)
    return chart


def _units(chart: alt.Chart) -> list[alt.Chart]:
    if not isinstance(chart, alt.LayerChart):
        return [chart]
    units = [unit.copy(deep=False) for unit in chart.layer]
    for unit in units:
        if unit.data is alt.Undefined:
            unit.data = chart.data
    return units


def _given(value: Any) -> list[Any]:
    return [] if value is alt.Undefined else list(value)


def _focus(name: str, by: str, view: str) -> alt.TopLevelSelectionParameter:
    """Pointing at a legend entry, or tapping it, brings its lines forward, until the pointer is elsewhere."""
    return alt.TopLevelSelectionParameter(
        name=name,
        select=alt.PointSelectionConfig(type="point", fields=[escape(by)]),
        bind=alt.LegendStreamBinding(legend="pointerover"),
        views=[view],
    )


def nearest(name: str, encodings: Sequence[str], view: str) -> alt.TopLevelSelectionParameter:
    """What the pointer is nearest to."""
    select = alt.PointSelectionConfig(
        type="point", nearest=True, on="pointerover", clear="pointerout", encodings=list(encodings)
    )
    return alt.TopLevelSelectionParameter(name=name, select=select, views=[view])


def _faded(focus: str | None, inside: float, outside: float) -> Any:
    return alt.value(inside) if focus is None else {"condition": {"param": focus, "value": inside}, "value": outside}


def _band(source: alt.Chart, y: Axis, band: tuple[str, str], focus: str | None, encodings: dict[str, Any]) -> alt.Chart:
    low, high = band
    edges = {"y": encode_y(y._replace(field=low, title=y.name)), "y2": alt.Y2(escape(high))}
    opacity = _faded(focus, 0.18, 0.03)
    return source.mark_area(stroke=None).encode(**(_without_kinds(encodings) | edges), fillOpacity=opacity)


def _hover(
    source: alt.Chart, frame: pl.DataFrame, key: str, x: Axis, y: Axis, encodings: dict[str, Any]
) -> tuple[list[alt.Chart], list[alt.TopLevelSelectionParameter]]:
    """A rule at the nearest x with the values of every series there; beyond MAX_COMPARED, only the nearest series'."""
    names = frame["series"].unique(maintain_order=True).to_list() if "series" in frame.columns else []
    compares = 0 < len(names) <= MAX_COMPARED
    near = f"near_{key}"
    shown = {"condition": {"param": near, "value": 1, "empty": False}, "value": 0}
    dots = source.mark_point(style="hover-point").encode(**_without_kinds(encodings), opacity=shown)
    dots = dots.properties(name=f"{HOVER}_dots_{key}")
    tooltip = [tooltip_of(x._replace(format="~g"))]
    if not compares:
        named = [nominal_tooltip("series", " ")] if names else []
        dots = dots.encode(tooltip=[*named, *tooltip, tooltip_of(y)])
        return [dots], [nearest(near, ("x", "y") if names else ("x",), f"{HOVER}_dots_{key}")]
    tooltip += [tooltip_of(Axis(name, format=y.format)) for name in names]
    rule = source.transform_pivot("series", value=escape(y.field), groupby=[x.field]).mark_rule(style="hover-rule")
    rule = rule.encode(x=encodings["x"], opacity=shown, tooltip=tooltip).properties(name=f"{HOVER}_rule_{key}")
    return [dots, rule], [nearest(near, ("x",), f"{HOVER}_rule_{key}")]
