"""Maps of final losses: B x eta, eta/B x eta, and the phase portrait gamma x eta."""

import math

import polars as pl

from paribus.analysis.axes import BATCH_SIZE, ETA, GAMMA, temperature
from paribus.analysis.final import finals, first_divergence
from paribus.report.blocks import Figure
from paribus.report.charts import Axis
from paribus.report.maps import Line, sweep_map
from paribus.report.tables import Tables, about_panels, grid_runs, ids, in_panels, repeated

LOSS = Axis("loss", "final loss")
LOG2_ETA = Axis(ETA, "η", "log2", ".4~g")
_FACTS = ("model.width", "model.depth", "model.gamma", "peak/loss", "step", "reason")
_HOW_TO_READ = (
    "Colour: the mean training loss of the last steps, over seeds. Grey: diverged. Empty: not run. The solid line is the "
    "first divergence, half-way between the last η that trained and the first that did not."
)


def heatmap_batch(tables: Tables) -> Figure | None:
    """log10 final loss over log2 B and log2 eta."""
    return _map(tables, Axis(BATCH_SIZE, "B", "log2", ",d"), "Final loss by batch size and η", "heatmap_batch")


def heatmap_temperature(tables: Tables) -> Figure | None:
    """log10 final loss over log2 eta / B and log2 eta: a batch size is a diagonal."""
    return _map(
        tables, Axis("temperature", "η/B", "log2", ".4~g"), "Final loss by temperature and η", "heatmap_temperature"
    )


def portrait(tables: Tables) -> Figure | None:
    """log10 final loss over log10 gamma and log10 eta, with the lines along which theory lets the largest eta move."""
    runs = grid_runs(tables.runs)
    axes = (GAMMA, ETA)
    if GAMMA not in runs.columns or (drawn := in_panels(runs, axes, axes)).is_empty():
        return None
    cells = finals(drawn, ("setting", *axes), facts=_facts(drawn, GAMMA))
    lines = [line for panel in drawn["setting"].unique(maintain_order=True) for line in _theory(drawn, cells, panel)]
    chart = sweep_map(
        _in_order(cells, drawn),
        Axis(GAMMA, "γ", "log10", ".4~g"),
        Axis(ETA, "η", "log10", ".4~g"),
        LOSS,
        _shown(cells),
        lines,
        panels="setting",
    )
    caption = (
        _HOW_TO_READ
        + " Dashed: the powers of γ that theory gives the largest η, through the measured one nearest γ = 1."
    )
    return Figure(
        "portrait", repeated(chart, drawn), "Phase portrait", caption + about_panels(drawn, runs, axes), ids(drawn)
    )


def _map(tables: Tables, x: Axis, title: str, name: str) -> Figure | None:
    runs = grid_runs(tables.runs)
    axes = (BATCH_SIZE, ETA)
    if runs.is_empty() or (drawn := in_panels(runs, axes, axes)).is_empty():
        return None
    drawn = drawn.with_columns(temperature=temperature())
    cells = finals(drawn, ("setting", *axes), facts=("temperature", *_facts(drawn)))
    shown = [fact for fact in (Axis(BATCH_SIZE, "B", format=",d"), Axis("temperature", "η/B")) if fact.field != x.field]
    chart = sweep_map(_in_order(cells, drawn), x, LOG2_ETA, LOSS, [*shown, *_shown(cells)], panels="setting")
    return Figure(name, repeated(chart, drawn), title, _HOW_TO_READ + about_panels(drawn, runs, axes), ids(drawn))


def _theory(runs: pl.DataFrame, cells: pl.DataFrame, panel: str) -> list[Line]:
    """The largest eta ~ gamma^2 (lazy) and gamma^(2/L) (rich) under SGD, gamma and gamma^(1/L) under Adam, and constant
    where the runs' rate holds that power already (the learning-rate map; Atanasov et al. 2024, arXiv 2410.04642)."""
    of_panel = runs.filter(pl.col("setting") == panel)
    first = of_panel.row(0, named=True)
    border = first_divergence(cells.filter(pl.col("setting") == panel), GAMMA, ETA).drop_nulls()
    if border.is_empty():
        return []
    at, last, diverged = min(border.iter_rows(), key=lambda row: abs(math.log10(row[0])))
    lazy = 2.0 if first.get("train.optimizer.kind", "sgd") == "sgd" else 1.0
    rich = lazy / first["model.depth"]
    low, high = of_panel[GAMMA].sort().gather([0, -1])
    middle = math.sqrt(last * diverged)
    if first.get("train.scale_by_gamma", True):
        return [Line("theory: η constant", [(low, middle), (high, middle)], panel)]
    at_one = middle / at ** (lazy if at <= 1 else rich)
    names = ("lazy: γ²", "rich: γ^(2/L)") if lazy == 2 else ("lazy: γ", "rich: γ^(1/L)")
    lines = [
        Line(names[0], [(low, at_one * low**lazy), (1.0, at_one)], panel),
        Line(names[1], [(1.0, at_one), (high, at_one * high**rich)], panel),
    ]
    return [line for line, is_seen in zip(lines, (low < 1, high > 1), strict=True) if is_seen]


def _facts(runs: pl.DataFrame, *besides: str) -> tuple[str, ...]:
    return tuple(name for name in _FACTS if name in runs.columns and name not in besides)


def _shown(cells: pl.DataFrame) -> list[Axis | str]:
    """What the pointer tells of a cell besides its place and its loss."""
    facts: list[Axis | str] = ["label", Axis("seeds", format="d"), Axis("diverged", "seeds diverged", format="d")]
    named = {
        "model.width": "width N",
        "model.depth": "depth L",
        "model.gamma": "γ",
        "peak/loss": "peak loss",
        "step": "steps",
    }
    facts += [Axis(name, title) for name, title in named.items() if name in cells.columns]
    facts += ["reason"] if "reason" in cells.columns else []
    return [*facts, Axis("loss_low", "from"), Axis("loss_high", "to")]


def _in_order(cells: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """Cells with their settings in the order of the runs, as panels are to stand."""
    return runs.select("setting").unique(maintain_order=True).join(cells, on="setting", maintain_order="left_right")
