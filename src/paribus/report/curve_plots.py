"""Loss curves: by temperature, in a grid by batch size, their collapse, catapults; and the noise of the loss."""

import polars as pl

from paribus.analysis import noise
from paribus.analysis.axes import BATCH_SIZE, ETA, temperature, with_axes, with_facts
from paribus.analysis.filters import keep, subsampled
from paribus.analysis.smoothing import RunSmoother, over_samples, over_steps, smoothed
from paribus.report.blocks import Figure
from paribus.report.charts import Axis, layer, theory
from paribus.report.tables import MAX_POINTS, Tables, about_panels, grid_runs, ids, in_panels, power, repeated
from paribus.report.trajectories import trajectories

SAMPLES = Axis("samples", "samples seen", "log10", ",d")
ETA_STEPS = Axis("eta_steps", "steps × η", "log10")
SMOOTH = Axis("smooth", "training loss", "log10")
TEMPERATURE = Axis("temperature", "η/B", "log2")
CATAPULT = 5.0  # a peak above so many initial losses, with an end below one, is a catapult
_MOST_CATAPULTS = 24
_NOISE_WINDOW = 17  # steps
_FEWEST_STEPS = 4 * _NOISE_WINDOW  # of a curve whose noise is measured, on its second half


def losscurve_temp_samples(tables: Tables) -> Figure | None:
    """Training loss against samples seen, coloured by temperature."""
    return _by_temperature(tables, SAMPLES, "losscurve_temp_samples", "samples seen")


def losscurve_temp_eta_steps(tables: Tables) -> Figure | None:
    """Training loss against steps x eta, coloured by temperature."""
    return _by_temperature(tables, ETA_STEPS, "losscurve_temp_eta_steps", "steps × η")


def losscurve_grid(tables: Tables) -> Figure | None:
    """Training loss against steps, coloured by eta: a panel a batch size."""
    runs = _trained(tables.runs)
    axes = (ETA,)
    if runs.is_empty() or (drawn := in_panels(runs, axes, axes)).is_empty():
        return None
    curves = _curves(drawn, tables.losses, "step", ETA, over_samples(_window(drawn)))
    chart = trajectories(curves, Axis("step", "step", "log10", ",d"), SMOOTH, Axis(ETA, "η", "log2"), ["run"])
    caption = f"{_about_smoothing(drawn)}{about_panels(drawn, runs, axes)}"
    return Figure("losscurve_grid", repeated(chart, drawn), "Loss curves by setting and η", caption, ids(drawn))


def collapse(tables: Tables, at: float | None = None) -> Figure | None:
    """Training loss against samples seen of the runs of one temperature, coloured by batch size.

    at: the temperature; None: that of the most batch sizes, the least of those."""
    runs = _trained(tables.runs)
    if runs.is_empty():
        return None
    if at is None:
        sizes = runs.group_by(temperature().alias("t")).agg(sizes=pl.col(BATCH_SIZE).n_unique())
        at = float(sizes.sort(pl.col("sizes"), -pl.col("t"))["t"][-1])
    axes = (BATCH_SIZE, ETA)
    if (drawn := in_panels(keep(runs, temperature=[at]), axes, (BATCH_SIZE,))).is_empty():
        return None
    curves = _curves(drawn, tables.losses, "samples", BATCH_SIZE, over_samples(_window(drawn)))
    chart = trajectories(curves, SAMPLES, SMOOTH, Axis(BATCH_SIZE, "B", "log2"), ["run"])
    caption = (
        f"All runs of temperature η/B = {power(at)}: where the temperature alone matters, the curves of all batch sizes "
        f"are one. {_about_smoothing(drawn)}"
    )
    return Figure("collapse", repeated(chart, drawn), f"Collapse at η/B = {power(at)}", caption, ids(drawn))


def catapults(tables: Tables) -> Figure | None:
    """Training loss over the initial one of the runs that rose above CATAPULT times it and came back."""
    runs = grid_runs(tables.runs).filter(pl.col("label") == "catapult")
    if runs.is_empty():
        return None
    drawn = runs.sort("peak/loss", descending=True).head(_MOST_CATAPULTS)
    curves = with_facts(tables.losses, _named(drawn), ETA, "initial/loss", "run").filter(pl.col("step") > 0)
    curves = subsampled(curves, MAX_POINTS // len(drawn), "log_step")
    curves = curves.with_columns(ratio=pl.col("loss") / pl.col("initial/loss"))
    x, y = Axis("step", "step", "log10", ",d"), Axis("ratio", "training loss / initial loss", "log10")
    ends = pl.DataFrame({"step": [1, curves["step"].max()], "ratio": [CATAPULT, CATAPULT]})
    chart = trajectories(curves, x, y, Axis(ETA, "η", "log2"), ["run"])
    more = f" The {len(drawn)} highest of {len(runs)} are shown." if len(runs) > len(drawn) else ""
    return Figure(
        "catapults",
        layer(theory(ends, x, y, f"{CATAPULT:g} × the initial loss"), chart),
        "Catapults",
        f"Runs whose loss rose above {CATAPULT:g} times its initial value and ended below it. Not smoothed.{more}",
        None,
    )


def noise_plot(tables: Tables) -> Figure | None:
    """The relative noise of the training loss over the second half of each run, against temperature, by batch size."""
    runs = _trained(tables.runs)
    axes = (BATCH_SIZE, ETA)
    if runs.is_empty() or (drawn := in_panels(runs, axes, (ETA,))).is_empty():
        return None
    half = with_facts(tables.losses, drawn, "setting").with_columns(last=pl.col("step").max().over("id"))
    half = half.filter(pl.col("step") > pl.col("last") / 2, pl.col("last") >= _FEWEST_STEPS)
    scales = noise.scale(noise.extracted(half.select("id", "step", "loss"), drawn, over_steps(_NOISE_WINDOW)))
    named = _named(drawn).select("id", "setting", BATCH_SIZE, "run", temperature=temperature())
    points = named.join(scales.drop_nulls(), on="id", maintain_order="left").sort("temperature", maintain_order=True)
    if points.is_empty():
        return None
    points = points.with_columns(
        line=pl.format("{} {}", "setting", BATCH_SIZE), log2_temperature=pl.col("temperature").log(2)
    )
    y = Axis("relative_noise", "noise / loss", "log10")
    chart = trajectories(
        points, Axis("log2_temperature", "log2 η/B"), y, Axis(BATCH_SIZE, "B", "log2"), ["run"], "line"
    )
    caption = (
        f"Root mean square of the training loss about its mean over {_NOISE_WINDOW} steps, relative to that mean, over the "
        f"second half of each run of {_FEWEST_STEPS} steps or more. A line joins the runs of one batch size."
    )
    return Figure(
        "noise", repeated(chart, drawn), "Noise of the loss", caption + about_panels(drawn, runs, axes), ids(points)
    )


def _by_temperature(tables: Tables, x: Axis, name: str, against: str) -> Figure | None:
    runs = _trained(tables.runs)
    axes = (BATCH_SIZE, ETA)
    if runs.is_empty() or (drawn := in_panels(runs, axes, (ETA,))).is_empty():
        return None
    curves = _curves(drawn, tables.losses, x.field, "temperature", over_samples(_window(drawn)))
    chart = trajectories(curves, x, SMOOTH, TEMPERATURE, ["run"])
    caption = f"{_about_smoothing(drawn)}{about_panels(drawn, runs, axes)}"
    return Figure(name, repeated(chart, drawn), f"Training loss against {against}, by temperature", caption, ids(drawn))


def _trained(runs: pl.DataFrame) -> pl.DataFrame:
    return grid_runs(runs).filter(pl.col("label").is_in(["stable", "catapult"]))


def _window(runs: pl.DataFrame) -> int:
    """Samples to average over: a sixty-fourth of what the run that saw the least was trained on."""
    return int(min(step * size for step, size in runs.select("step", BATCH_SIZE).iter_rows())) // 64


def _about_smoothing(runs: pl.DataFrame) -> str:
    window = _window(runs)
    return f"Averaged over {window:,} samples, where a batch is smaller." if window > 2 * min(runs[BATCH_SIZE]) else ""


def _curves(runs: pl.DataFrame, losses: pl.DataFrame, x: str, colour: str, smoother: RunSmoother) -> pl.DataFrame:
    """Smoothed curves from step 1 on (a logarithm has no 0), few enough points, with `setting`, `run` and a colour."""
    named = _named(runs)
    smooth = smoothed(losses, named, smoother).filter(pl.col("step") > 0, pl.col("smooth").is_finite())
    most = max(12, min(200, MAX_POINTS // len(runs)))
    thin = subsampled(smooth, most, "log_step")
    axes = with_axes(thin, named, "setting", "run")
    columns = list(dict.fromkeys(("id", x, "smooth", "setting", "run", colour)))
    order = runs.select("setting").unique(maintain_order=True)
    return order.join(axes.select(columns), on="setting", maintain_order="left_right")


def _named(runs: pl.DataFrame) -> pl.DataFrame:
    """Add `run`: how the pointer calls it."""
    names = [f"B = {power(row[BATCH_SIZE])}, η = {power(row[ETA])}" for row in runs.iter_rows(named=True)]
    return runs.with_columns(run=pl.Series(names, dtype=pl.String))
