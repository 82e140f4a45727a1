"""One look for every figure: colours that a colour-blind reader can tell apart, on paper, on a light and on a dark page.

Charts name roles (`category`, `heatmap`, the style `theory`), never colours; the configuration given at rendering turns
roles into colours, so that one specification serves both schemes.
"""

from typing import Any, Literal, NamedTuple

Scheme = Literal["light", "dark"]

SANS = '-apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", "Liberation Sans", Arial, sans-serif'
PAPER_SANS = "Helvetica Neue, Helvetica, Liberation Sans, Arial, sans-serif"


class Palette(NamedTuple):
    ink: str
    muted: str
    hairline: str
    ground: str
    category: tuple[str, ...]  # hues of Okabe & Ito 2008, shaded to stand out from the ground
    ordinal: tuple[float, float]  # the part of viridis that stands out from the ground
    diverging: tuple[str, ...]  # from below zero to above; the middle is near the ground


LIGHT = Palette(
    ink="#1c2127",
    muted="#5c6670",
    hairline="#e6e9ec",
    ground="#ffffff",
    category=("#0072b2", "#c94f00", "#009e73", "#c0649a", "#cc8f00", "#3fa3dd", "#3d434a"),
    ordinal=(0.0, 0.88),
    diverging=("#1f5a99", "#6ba3d0", "#c9ddec", "#f6f6f5", "#f5d5c0", "#e0926a", "#a8451c"),
)
DARK = Palette(
    ink="#e8eaec",
    muted="#a0a9b2",
    hairline="#2b3138",
    ground="#14171a",
    category=("#4da3e6", "#f0783c", "#2fc59a", "#d97fb4", "#f5c95b", "#a8dcff", "#e8eaec"),
    ordinal=(0.28, 1.0),
    diverging=("#8cc4f4", "#4d86b8", "#2c4a63", "#23272c", "#63402c", "#b96c41", "#ffab7a"),
)


def vega_config(scheme: Scheme, font: str = SANS) -> dict[str, Any]:
    """Everything that a Vega-Lite specification leaves to the page: colours, type, axes, legends."""
    palette = DARK if scheme == "dark" else LIGHT
    return {
        "background": "transparent",
        "font": font,
        "padding": 2,
        "range": {
            "category": list(palette.category),
            "ordinal": {"scheme": "viridis", "extent": list(palette.ordinal)},
            "heatmap": {"scheme": "viridis"},
            "ramp": {"scheme": "viridis", "extent": list(palette.ordinal)},
            "diverging": list(palette.diverging),
        },
        "view": {"stroke": None},
        "style": _styles(palette),
        "mark": {"color": palette.category[0]},
        "line": {"strokeWidth": 1.75, "strokeCap": "round", "strokeJoin": "round"},
        "point": {"size": 46, "filled": True, "opacity": 1},
        **_guides(palette),
    }


def _styles(palette: Palette) -> dict[str, Any]:
    return {
        "theory": {"color": palette.ink, "strokeWidth": 1.5, "strokeDash": [5, 4]},
        "theory-label": {"color": palette.muted, "fontSize": 11.5, "fontStyle": "italic"},
        "envelope": {"color": palette.muted, "fillOpacity": 0.16, "stroke": palette.muted, "strokeOpacity": 0.5},
        "error": {"strokeWidth": 1.5, "strokeCap": "round"},
        "hover-rule": {"color": palette.muted, "strokeWidth": 1},
        "hover-point": {"stroke": palette.ground, "strokeWidth": 1.5, "size": 64},
        "cell": {"strokeWidth": 0},
        "diverged": {"strokeWidth": 0, "color": palette.muted, "fillOpacity": 0.4},
        "border": {"color": palette.ink, "strokeWidth": 2.25, "strokeJoin": "round"},
        "border-halo": {"color": palette.ground, "strokeWidth": 5, "strokeOpacity": 0.75, "strokeJoin": "round"},
        "trajectory": {"strokeWidth": 1.5, "strokeOpacity": 0.85},
        "best": {"shape": "diamond", "size": 130, "stroke": palette.ground, "strokeWidth": 1.5, "opacity": 1},
        "seed": {"size": 28, "opacity": 0.55},
        "estimate": {"size": 52, "opacity": 1},
    }


def _guides(palette: Palette) -> dict[str, Any]:
    label = {"labelColor": palette.muted, "labelFontSize": 12, "labelFontWeight": "normal"}
    title = {"titleColor": palette.muted, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "axis": {**label, **title, "gridColor": palette.hairline, "domain": False, "ticks": False, "labelPadding": 8}
        | {"labelOverlap": True, "labelLimit": 160},
        "axisX": {"grid": False, "domain": True, "domainColor": palette.muted, "domainWidth": 1, "titlePadding": 10}
        | {
            "ticks": True,
            "tickSize": 4,
            "tickColor": palette.muted,
            "labelPadding": 5,
            "labelFlush": False,
            "tickCount": 8,
        },
        # the title lies above the axis, where it is read without turning the head and costs no width on a phone
        "axisY": {
            "titleAngle": 0,
            "titleAlign": "left",
            "titleAnchor": "end",
            "titleY": -14,
            "titleX": 0,
            "tickCount": 5,
        }
        | {"titleBaseline": "bottom"},
        "legend": {
            **label,
            **title,
            "labelColor": palette.ink,
            "orient": "top",
            "direction": "horizontal",
            "offset": 34,
        }
        | {
            "symbolStrokeWidth": 2.5,
            "symbolSize": 110,
            "symbolOpacity": 1,
            "columnPadding": 16,
            "rowPadding": 4,
            "titleOrient": "left",
        }
        | {"titlePadding": 10, "labelLimit": 260, "gradientLength": 180, "gradientThickness": 8}
        | {"layout": {"top": {"anchor": "start", "direction": "horizontal", "margin": 28}}},
        "header": {"labelColor": palette.ink, "labelFontSize": 13, "labelFontWeight": 600, "labelAnchor": "start"}
        | {"title": None, "labelPadding": 10},
        "title": {"color": palette.ink, "anchor": "start", "fontSize": 14, "fontWeight": 600},
        "facet": {"spacing": {"row": 44, "column": 36}},
        "concat": {"spacing": 36},
    }
