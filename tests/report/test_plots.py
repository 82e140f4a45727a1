"""Oracles: the formulas of the fabricated sweeps; the page of all figures in a real browser."""

import json
import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import vl_convert
from browser import Browser

from paribus.errors import ConfigError
from paribus.report.blocks import Figure, Report, Section
from paribus.report.cells import rows as cells_of
from paribus.report.laws import laws_table
from paribus.report.page import paper_spec, screen_spec, write_report
from paribus.report.plots import PLOTS, check_names, plot
from paribus.report.tables import Tables, power
from sweep_tables import eta_max, sweep

ETAS = tuple(2.0**e for e in range(-6, 3))


def joined(*sweeps: Any) -> Tables:
    """Several sweeps as the tables of one folder: ids told apart, columns that one lacks null."""
    marked = [
        [frame.with_columns(id=pl.lit(f"{number}-") + pl.col("id")) for frame in part]
        for number, part in enumerate(sweeps)
    ]
    return Tables(*(pl.concat(frames, how="diagonal_relaxed") for frames in zip(*marked, strict=True)))


MAP = joined(sweep(etas=ETAS, seeds=(0, 1)))
WIDTHS = joined(sweep(batch_sizes=(64,), etas=(0.25, 0.5, 1.0), widths=(32, 64, 128, 256), steps=80))
RICHNESS = joined(
    sweep(batch_sizes=(64,), etas=tuple(2.0**e for e in range(-8, 7)), gammas=(0.1, 1.0, 10.0, 100.0), steps=80)
)
ALL = {"map": MAP, "widths": WIDTHS, "richness": RICHNESS}


def data(figure: Figure) -> list[dict[str, Any]]:
    """The rows of a figure's largest data set."""
    return max((list(rows) for rows in paper_spec(figure.chart)["datasets"].values()), key=len)


def one(tables: Tables, name: str) -> Figure:
    (figure,) = plot(tables, [name])
    return figure


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "map",
            "heatmap_batch heatmap_temperature losscurve_temp_samples losscurve_temp_eta_steps losscurve_grid collapse "
            "catapults noise",
        ),
        (
            "widths",
            "losscurve_temp_samples losscurve_temp_eta_steps losscurve_grid width_transfer coordinate_check noise",
        ),
        (
            "richness",
            "losscurve_temp_samples losscurve_temp_eta_steps losscurve_grid portrait catapults noise",
        ),
    ],
)
def test_a_sweep_has_the_figures_of_its_kind_and_no_others(kind: str, names: str):
    figures = plot(ALL[kind])
    assert [figure.name for figure in figures] == [name for name in PLOTS if name in names.split()]
    for figure in figures:
        vl_convert.vegalite_to_svg(paper_spec(figure.chart))
        assert not re.search(r"#[0-9a-f]{3,8}\b", json.dumps(screen_spec(figure.chart))), "colours belong to the theme"


def test_a_name_that_no_plot_has_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r'found "heatmap_bach", .* did you mean "heatmap_batch"\?$'):
        plot(MAP, ["portrait", "heatmap_bach"])
    with pytest.raises(ConfigError, match=r"found \"xyz\", .* expected one of heatmap_batch, .*noise$"):
        check_names(["xyz"])


def test_tables_without_runs_of_the_grid_engine_have_no_figures():
    torch_runs = pl.DataFrame({"id": ["a"], "name": ["k1"], "data.kind": ["text"], "final/loss": [1.0]})
    assert plot(Tables(torch_runs, MAP.losses.clear(), MAP.evaluations.clear())) == []
    assert plot(Tables(pl.DataFrame(), MAP.losses.clear(), MAP.evaluations.clear())) == []


def test_unfinished_runs_and_absent_losses_leave_figures_out():
    unfinished = MAP.runs.with_columns(
        pl.lit(None, pl.String).alias("label"), pl.lit(None, pl.Float64).alias("final/loss")
    )
    assert plot(MAP._replace(runs=unfinished)) == []


def test_fixed_time_and_fixed_data_are_never_in_one_figure():
    both = joined(sweep(etas=ETAS, steps=80), sweep(etas=ETAS, steps=80, num_samples=512))
    names = ["heatmap_batch", "losscurve_temp_samples", "catapults", "noise"]
    figures = plot(both, names)
    assert [figure.name for figure in figures] == [
        f"{name}-{protocol}" for name in names for protocol in ("fixed-time", "fixed-data")
    ]
    of_protocol = {"fixed-time": "0-", "fixed-data": "1-"}
    for figure in figures:
        ids = {row["id"][:2] for row in data(figure) if row.get("id")}
        if ids:
            assert ids == {of_protocol[figure.name.split("-", 1)[1]]}
        assert figure.title.endswith(("fixed time", "fixed data"))


def test_what_differs_beyond_the_axes_stands_in_panels_of_its_own():
    tables = joined(sweep(etas=ETAS, gammas=(10.0, 0.1), steps=80))
    spec = paper_spec(one(tables, "heatmap_batch").chart)
    assert spec["facet"]["field"] == "setting"
    assert spec["facet"]["sort"] == ["gamma = 0.1", "gamma = 10"]
    cells = [row for row in data(one(tables, "heatmap_batch")) if row["part"] != "line"]
    assert {row["setting"]: row["model.gamma"] for row in cells} == {"gamma = 0.1": 0.1, "gamma = 10": 10.0}


def test_the_maps_show_the_mean_over_seeds():
    runs = MAP.runs.filter(pl.col("label") != "diverged").group_by("train.batch_size", "train.eta")
    expected = {(b, e): loss for b, e, loss in runs.agg(pl.col("final/loss").mean()).iter_rows()}
    for name in ("heatmap_batch", "heatmap_temperature"):
        cells = [row for row in data(one(MAP, name)) if row["part"] == "cell"]
        assert {(row["train.batch_size"], row["train.eta"]): row["loss"] for row in cells} == pytest.approx(expected)
        assert all(row["seeds"] == 2 for row in cells)
    for row in cells:
        assert (row["left"] + row["right"]) / 2 == math.log2(row["train.eta"] / row["train.batch_size"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"theory: η constant": [(-1.0, 0.0), (2.0, 0.0)]}),
        (
            {"train.scale_by_gamma": False},
            {"lazy: γ²": [(-1.0, -2.0), (0.0, 0.0)], "rich: γ^(2/L)": [(0.0, 0.0), (2.0, 4 / 3)]},
        ),
        (
            {"train.scale_by_gamma": False, "train.optimizer.kind": "adam"},
            {"lazy: γ": [(-1.0, -1.0), (0.0, 0.0)], "rich: γ^(1/L)": [(0.0, 0.0), (2.0, 2 / 3)]},
        ),
    ],
)
def test_theory_goes_through_the_measured_border_at_gamma_one(changes: dict[str, Any], expected: dict[str, Any]):
    """L = 3. At gamma = 1 the largest eta that trained is 2, the next one 4: the border is at 2^1.5."""
    runs = RICHNESS.runs.with_columns(**{key: pl.lit(value) for key, value in changes.items()})
    assert eta_max(1.0, 64) == 2.0
    anchor = 1.5 * math.log10(2)
    lines: dict[str, Any] = {}
    for row in data(one(RICHNESS._replace(runs=runs), "portrait")):
        if row["part"] == "line" and row["line"] != "first divergence":
            lines.setdefault(row["line"], []).append((row["left"], row["bottom"] - anchor))
    assert lines.keys() == expected.keys()
    for name, points in expected.items():
        assert [value for point in lines[name] for value in point] == pytest.approx(
            [v for p in points for v in p], abs=1e-9
        )


def test_curves_of_one_temperature_collapse_and_others_are_left_out():
    figure = one(MAP, "collapse")
    drawn = MAP.runs.filter(pl.col("id").is_in({row["id"] for row in data(figure)}))
    temperatures = set((drawn["train.eta"] / drawn["train.batch_size"]).to_list())
    assert len(temperatures) == 1
    assert figure.title == f"Collapse at η/B = {power(temperatures.pop())}"
    assert drawn["train.batch_size"].n_unique() == 4
    assert all(row["samples"] > 0 for row in data(figure))


def test_catapults_are_the_runs_that_came_back_with_their_peaks():
    rows = data(one(MAP, "catapults"))
    expected = MAP.runs.filter(pl.col("label") == "catapult")
    assert {row["id"] for row in rows} == set(expected["id"])
    for run in expected.iter_rows(named=True):
        peak = max(row["ratio"] for row in rows if row["id"] == run["id"])
        assert peak == pytest.approx(run["peak/loss"] / run["initial/loss"])


def test_the_best_eta_of_each_width_is_marked():
    marked = [row for row in data(one(WIDTHS, "width_transfer")) if row["is_marked"]]
    best = WIDTHS.runs.drop_nulls("final/loss").sort("final/loss").group_by("model.width").first()
    assert {row["width"]: row["log2_eta"] for row in marked} == {
        width: math.log2(eta) for width, eta in best.select("model.width", "train.eta").iter_rows()
    }


def test_the_coordinate_check_shows_the_change_of_each_layer():
    rows = data(one(WIDTHS, "coordinate_check"))
    assert {row["layer"] for row in rows} == {"h1", "h2", "f"}
    for row in rows:
        eta = float(row["setting"].removeprefix("eta = "))
        assert row["change"] == pytest.approx(0.1 * eta * (1 + row["width"] ** (-0.5 if row["layer"] == "f" else 0.0)))


def test_the_noise_is_that_of_the_formula():
    """Relative noise of .02 about a mean over 17 steps: .02 sqrt(1 - 1/17), here over 100 steps and many runs."""
    values = [row["relative_noise"] for row in data(one(MAP, "noise"))]
    assert sum(values) / len(values) == pytest.approx(0.02 * (1 - 1 / 17) ** 0.5, rel=0.03)


def test_numbers_are_powers_of_two_where_they_are():
    assert [power(v) for v in (2.0**-11, 0.5, 1, 64, 2.0**12, 0.05)] == ["2⁻¹¹", "2⁻¹", "1", "64", "2¹²", "0.05"]


def test_a_law_is_a_row_with_its_interval_and_its_verdict():
    law = {"name": "lazy", "quantity": "slope", "estimate": 2.013, "low": 1.95, "high": 2.08, "theory": 2.0}
    law |= {"bounds": (1.8, 2.2), "verdict": "holds", "evidence": "9 points"}
    unknown = law | {"estimate": math.nan, "low": math.nan, "high": math.nan, "verdict": "inconclusive"}
    table = laws_table([law, unknown | {"bounds": (1.5, math.inf)}, unknown | {"bounds": (-math.inf, 0.5)}])
    first, second, third = ([cell.text + cell.note for cell in row] for row in cells_of(table))
    assert first == ["lazy", "holds", "slope", "2.01[1.95, 2.08]", "2", "1.8 to 2.2", "9 points"]
    assert second[1:6] == ["inconclusive", "slope", "–", "2", "≥ 1.5"]
    assert third[5] == "≤ 0.5"
    assert [cell.tone for cell in cells_of(table)[0]][1] == "good"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = {figure.name: figure for tables in ALL.values() for figure in plot(tables)}
    report = Report("Plots", "All.", [Section("Plots", list(drawn.values()))])
    return write_report(report, tmp_path_factory.mktemp("plots") / "r.html", figures=False)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        pytest.param(1280, "light", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
    ],
)
def test_every_figure_is_drawn_without_complaint_or_request(browser: Browser, page: Path, width: int, scheme: str):
    browser.open(page, width, scheme)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.evaluate("document.querySelectorAll('figure[data-drawn] .chart .marks').length") == len(PLOTS)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    spill = "[...document.querySelectorAll('.chart')].map(c => c.firstElementChild.scrollWidth - c.clientWidth)"
    assert max(browser.evaluate(spill)) <= 1


def test_pointing_at_a_cell_tells_its_facts(browser: Browser, tmp_path: Path):
    report = Report("Map", "One.", [Section("Map", [one(MAP, "heatmap_batch")])])
    browser.open(write_report(report, tmp_path / "map.html", figures=False))
    cell = "document.querySelector('#figure-heatmap_batch path[aria-roledescription=\"rect mark\"]')"
    browser.evaluate(f"{cell}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y, width, height = browser.evaluate(f"(r => [r.x, r.y, r.width, r.height])({cell}.getBoundingClientRect())")
    for shift in (-4, 0):
        browser.move(x + width / 2 + shift, y + height / 2)
    browser.until("document.querySelector('#vg-tooltip-element.visible')")
    cells = browser.evaluate("[...document.querySelectorAll('#vg-tooltip-element td')].map(c => c.textContent.trim())")
    told = dict(zip(cells[::2], cells[1::2], strict=True))
    assert {"B", "η", "η/B", "label", "seeds", "width N", "γ", "final loss", "peak loss"} <= told.keys()
    assert (told["label"], told["seeds"]) == ("stable", "2")
