"""Oracles: the SVG that a chart becomes, the contrast formula of WCAG 2, and a simulation of colour blindness."""

import itertools
import json
import re
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
import vl_convert

from paribus.report import charts
from paribus.report.charts import Axis, Kinds
from paribus.report.page import paper_spec, screen_spec
from paribus.report.theme import DARK, LIGHT, Palette

X, Y = Axis("x", "position"), Axis("y", "loss")
K = Axis("K", scale="log2")
KINDS = Kinds("kind")


def frame(groups: int = 3, points: int = 5) -> pl.DataFrame:
    """Named groups, numbered groups, two kinds, bounds: a column for each thing that a chart can show."""
    rows = [
        {"x": x, "y": 1.0 + g / x, "group": f"g{g}", "K": 2**g, "kind": kind, "low": 0.9 + g / x, "high": 1.1 + g / x}
        for g in range(groups)
        for kind in ("measured", "fit")
        for x in range(1, points + 1)
    ]
    return pl.DataFrame(rows)


MEASURED = frame().filter(pl.col("kind") == "measured")
ONE = MEASURED.filter(pl.col("group") == "g1")
AT_LAST = MEASURED.filter(pl.col("x") == 5)
GALLERY = {
    "a line": charts.curves(ONE, X, Y),
    "lines with bands": charts.curves(MEASURED, X, Y, "group", ("low", "high")),
    "lines of two kinds": charts.curves(frame(), X, Y, "K", kinds=KINDS),
    "a kind beneath another": charts.curves(frame(1), X, Y, "group", kinds=Kinds("kind", beneath="fit")),
    "lines on log axes": charts.curves(MEASURED, X._replace(scale="log10"), Y._replace(scale="log10"), "K"),
    "more lines than colours": charts.curves(frame(11).filter(pl.col("kind") == "fit"), X, Y, "group"),
    "more lines than a tooltip holds": charts.curves(frame(16).filter(pl.col("kind") == "fit"), X, Y, "group"),
    "more lines than a legend names": charts.curves(
        frame(41).filter(pl.col("kind") == "fit"), X, Y, "group", ("low", "high")
    ),
    "points": charts.points(AT_LAST, K, Y, interval=("low", "high")),
    "points of groups": charts.points(MEASURED, X, Y, "group", ("low", "high")),
    "points of single seeds": charts.points(
        AT_LAST.with_columns(low=pl.when(pl.col("group") == "g0").then("low")), X, Y, "group", ("low", "high")
    ),
    "seeds": charts.points(MEASURED, X, Y, faint=True),
    "heat map": charts.heat_map(MEASURED, X, "group", Y),
    "heat map of differences": charts.heat_map(MEASURED, X, "group", Y, diverging=True),
    "heat map of names": charts.heat_map(MEASURED, Axis("kind"), "group", Y),
    "panels": charts.small_multiples(charts.curves(frame(), X, Y, "K"), "kind"),
    "panels of heat maps": charts.small_multiples(charts.heat_map(frame(), X, "group", Y), "kind", shared_y=False),
    "ceiling": charts.layer(
        charts.envelope(ONE, X, Y, "low", "high"),
        charts.curves(MEASURED, X, Y, "group"),
        charts.points(MEASURED, X, Y, "group"),
        charts.theory(ONE, X, Y, "theory"),
        charts.level(1.0, Y),
    ),
    "two sets of curves": charts.layer(charts.curves(MEASURED, X, Y, "group"), charts.curves(ONE, X, Y)),
}


def marks(chart: alt.Chart, kind: str) -> list[str]:
    """The `d` of each mark of a kind, in the file for papers."""
    svg = vl_convert.vegalite_to_svg(paper_spec(chart))
    return re.findall(rf'aria-roledescription="{kind}"[^>]* d="([^"]+)"', svg)


def walk(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(node for child in children for node in walk(child))]


@pytest.mark.parametrize("name", GALLERY)
def test_every_chart_compiles_for_the_screen_and_for_papers(name: str):
    screen, paper = screen_spec(GALLERY[name]), paper_spec(GALLERY[name])
    assert not re.search(r"#[0-9a-f]{3,8}\b", json.dumps(screen)), "colours belong to the theme, which knows the scheme"
    assert charts.HOVER not in json.dumps(paper | {"config": None}), "a paper has no pointer"
    vl_convert.vegalite_to_vega(paper)
    names = [param["name"] for param in screen.get("params", [])]
    assert len(set(names)) == len(names)
    views = {node.get("name") for node in walk(screen) if isinstance(node, dict)}
    assert all(view in views for param in screen.get("params", []) for view in param["views"])


def test_each_group_and_kind_is_one_line_through_all_its_points():
    lines = marks(charts.curves(frame(), X, Y, "K", kinds=KINDS), "line mark")
    assert len(lines) == 6
    assert [path.count("L") for path in lines] == [4] * 6


def test_a_line_that_others_hide_is_broad_and_drawn_first():
    svg = vl_convert.vegalite_to_svg(paper_spec(charts.curves(frame(2), X, Y, "group", kinds=Kinds("kind", "fit"))))
    drawn = re.findall(r'"line mark"[^>]* stroke="(#\w+)" (?:stroke-opacity="([\d.]+)" )?stroke-width="([\d.]+)"', svg)
    blue, orange = LIGHT.category[:2]
    assert drawn == [(blue, "0.42", "7"), (orange, "0.42", "7"), (blue, "", "1.75"), (orange, "", "1.75")]
    assert 'stroke-dasharray="6,3"' not in svg
    assert svg.count(">fit</text>") == svg.count(">measured</text>") == 1


def test_one_name_has_no_legend_and_one_number_has():
    def labels(chart: alt.Chart) -> list[str]:
        return re.findall(r"role-legend-label.*?>([^<]+)</text>", vl_convert.vegalite_to_svg(paper_spec(chart)))

    one = ONE.with_columns(kind=pl.lit("measured"))
    for chart in (charts.curves, charts.points):
        assert labels(chart(one, X, Y, "group")) == []
        assert labels(chart(one, X, Y, "K")) == ["2"]
        assert labels(chart(MEASURED, X, Y, "group")) == ["g0", "g1", "g2"]
    assert labels(charts.curves(one, X, Y, "K", kinds=KINDS)) == ["2"]


def test_a_band_lies_between_its_bounds_and_not_on_the_line():
    wide = charts.curves(ONE, X, Y, band=("low", "high"))
    (area,) = marks(wide, "area mark")
    heights = [float(y) for y in re.findall(r",(-?[\d.]+)", area)]
    assert max(heights) - min(heights) > 1
    assert len(set(heights)) > 5


@pytest.mark.parametrize("field", ["loss/cs.CV", "a.b", "a[0]", "it's"])
def test_a_column_may_have_any_name(field: str):
    renamed = MEASURED.rename({"y": field, "group": f"group {field}"})
    chart = charts.curves(renamed, X, Axis(field, "loss"), f"group {field}")
    assert [path.count("L") for path in marks(chart, "line mark")] == [4] * 3
    cells = charts.heat_map(renamed, X, f"group {field}", Axis(field, "loss"))
    assert len(marks(cells, "rect mark")) == 15


def test_a_group_may_have_any_name():
    odd = ['say "y"', "back\\slash", "</script>", "a.b[0]", "", "it's"]
    chart = charts.curves(
        frame(6).with_columns(group=pl.col("group").replace_strict([f"g{i}" for i in range(6)], odd)),
        X,
        Y,
        "group",
        kinds=KINDS,
    )
    svg = vl_convert.vegalite_to_svg(paper_spec(chart))
    assert svg.count('aria-roledescription="line mark"') == 12
    assert "&lt;/script&gt;" in svg
    vl_convert.vegalite_to_vega(screen_spec(chart) | {"datasets": paper_spec(chart)["datasets"]})


def test_a_heat_map_has_one_cell_a_row_in_the_order_asked_for():
    chart = charts.heat_map(MEASURED, X, "group", Y, rows=["g2", "g0", "g1"])
    svg = vl_convert.vegalite_to_svg(paper_spec(chart))
    assert svg.count('aria-roledescription="rect mark"') == 15
    assert re.findall(r">(g\d)</text>", svg) == ["g2", "g0", "g1"]


def test_logarithmic_axes_show_the_values_of_k():
    svg = vl_convert.vegalite_to_svg(paper_spec(charts.points(AT_LAST, K, Y)))
    ticks = {text: float(x) for x, text in re.findall(r'translate\(([\d.]+),[\d.]+\)"[^>]*>(1|2|4)</text>', svg)}
    assert ticks["4"] - ticks["2"] == pytest.approx(ticks["2"] - ticks["1"], abs=1)


def test_groups_stand_beside_one_another():
    spec = screen_spec(charts.points(MEASURED, X, Y, "group", ("low", "high")))
    offsets = {layer["mark"]["xOffset"] for layer in spec["layer"] if layer["mark"]["type"] == "rule"}
    assert offsets == {-7, 0, 7}


def test_a_point_without_an_interval_has_no_error_bar_and_those_beside_it_have():
    svg = vl_convert.vegalite_to_svg(paper_spec(GALLERY["points of single seeds"]))
    assert svg.count('aria-roledescription="rule mark"') == 1
    assert svg.count('aria-roledescription="point"') == 3


def test_data_by_column_are_the_rows():
    (data,) = screen_spec(charts.curves(frame(), X, Y, "group", kinds=KINDS))["datasets"].values()
    (rows,) = paper_spec(charts.curves(frame(), X, Y, "group", kinds=KINDS))["datasets"].values()
    columns = {
        field: column.get("values") or [column["levels"][code] for code in column["codes"]]
        for field, column in data["columns"].items()
    }
    assert data["rows"] == len(rows) == 30
    rebuilt = [{field: values[i] for field, values in columns.items()} for i in range(30)]
    for one, row in zip(rebuilt, rows, strict=True):
        assert {**one, "y": 0} == {**row, "y": 0, "low": one["low"], "high": one["high"]}
        assert [one["y"], one["low"]] == pytest.approx([row["y"], row["low"]], rel=1e-6)


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, contrast ratio."""
    light, dark = sorted((float(linear(rgb(c)) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (a, b)), reverse=True)
    return light / dark


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out_from_the_ground(palette: Palette):
    assert contrast(palette.ink, palette.ground) > 12
    assert contrast(palette.muted, palette.ground) > 4.5
    for colour in palette.category:
        assert contrast(colour, palette.ground) >= 2.5, colour


# Machado, Oliveira & Fernandes 2009, table 1, severity 1: applied to linear RGB
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, sight: np.ndarray) -> np.ndarray:
    xyz = XYZ @ np.clip(sight @ linear(rgb(colour)), 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    "sight", [np.eye(3), np.array(DEUTERANOPIA), np.array(PROTANOPIA)], ids=["all", "deutan", "protan"]
)
def test_colours_differ_to_every_eye(palette: Palette, sight: np.ndarray):
    """12 is five times a difference that is just noticed (CIE 1976)."""
    pairs = itertools.combinations(palette.category, 2)
    closest = min((float(np.linalg.norm(lab(a, sight) - lab(b, sight))), a, b) for a, b in pairs)
    assert closest[0] > 12, closest
