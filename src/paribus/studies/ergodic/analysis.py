"""From finished text runs to the study's numbers: loss against K, by position, paired on shared windows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from paribus import config as configs
from paribus.data.config import NestedCategories, TextData
from paribus.data.mixture import choose_categories
from paribus.errors import RunError
from paribus.evals.power_law import PowerLaw, fit_power_law
from paribus.evals.results import EvalResult, WindowTable, read_result, result_path
from paribus.evals.statistics import Interval, ergodic_ceiling, over_seeds, paired_difference, shared_windows
from paribus.report.collect import evaluations, provenance
from paribus.run_config import RunConfig
from paribus.rundir import RunDir

BASELINES = "baselines"  # the sweep whose runs are trained on one category each
EVALUATION = "test"  # the evaluation that every text run of the study has, on all categories


DIFFERENCES = {
    "arm": pl.String,
    "K": pl.Int64,
    "seed": pl.Int64,
    "category": pl.String,
    "band": pl.String,
    "delta": pl.Float64,
    "delta_low": pl.Float64,
    "delta_high": pl.Float64,
}


class Trained(NamedTuple):
    """One finished run with its evaluation on the windows that all runs share."""

    arm: str  # the sweep it belongs to
    seed: int  # of the choice of categories
    is_nested: bool  # the categories of a smaller K are among these
    active: tuple[str, ...]  # the K categories it was trained on
    home: str  # the one category that the K = 1 run of this seed is trained on
    record: Mapping[str, Any]
    windows: WindowTable
    data: Mapping[str, Any]  # unique_tokens, total_tokens, passes, steps
    path: Path

    @property
    def k(self) -> int:
        return len(self.active)

    def category_loss(self, name: str) -> float:
        return float(self.record["by_category"]["mean"][self.record["categories"].index(name)])

    @property
    def loss(self) -> float:
        """XE_K: the mean over the active categories, nats a token."""
        return math.fsum(self.category_loss(name) for name in self.active) / self.k

    def home_curve(self) -> np.ndarray:
        """(T,) loss by position in the home category."""
        row, matrix = self.record["categories"].index(self.home), self.record["matrix"]
        curve: np.ndarray = np.asarray(matrix["sum"][row]) / np.asarray(matrix["count"][row])
        return curve

    def home_in_context(self) -> float:
        """L(a) - L(b) in the home category."""
        return float(self.record["in_context"]["by_category"]["mean"][self.record["categories"].index(self.home)])

    def windows_of(self, name: str, band: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(window ids, their losses) in one category, over all positions or one band of them."""
        rows = self.windows.category == name
        losses = self.windows.loss if band is None else self.windows.bands[band]
        return self.windows.window_id[rows], losses[rows].astype(np.float64)


def read_all(runs: Mapping[str, Sequence[Path]]) -> list[Trained]:
    """Every finished text run of the sweeps."""
    return [
        read(
            arm.replace("_", " "),
            path,
            read_result(result_path(RunDir(path).evals, EVALUATION, evaluations(path)[EVALUATION][-1])),
        )
        for arm, paths in runs.items()
        for path in paths
        if EVALUATION in evaluations(path)
    ]


def read(arm: str, path: Path, result: EvalResult) -> Trained:
    """Read one run; its evaluation must cover all categories, so that every run is scored on the same windows."""
    config = configs.load(path / "config.yaml", RunConfig)
    if not isinstance(config.data, TextData) or result.windows is None:
        raise RunError(f"{path}: not a text run with an evaluation of kind loss")
    available = result.record["categories"]
    seed = config.seeds.categories
    active = choose_categories(config.data.categories, available, seed)
    first = choose_categories(NestedCategories(k=1), available, seed)[0]
    home = first if first in active else active[0]
    is_nested = isinstance(config.data.categories, NestedCategories)
    return Trained(
        arm, seed, is_nested, active, home, result.record, result.windows, provenance(path).get("data", {}), path
    )


def loss_by_k(runs: Sequence[Trained]) -> pl.DataFrame:
    """XE_K with its interval over seeds, its difference to XE_1 of the same seed, and theory's ceiling, by arm and K."""
    rows = []
    for (arm, k), group in _grouped(runs):
        singles = {run.seed: run.loss for run in runs if run.arm == arm and run.k == 1 and run.is_nested}
        deltas = [run.loss - singles[run.seed] for run in group if run.seed in singles]
        predictions = group[0].record["windows"]["predictions"]
        rows.append(
            {"arm": arm, "K": k, "seeds": len(group)}
            | _columns("loss", over_seeds([run.loss for run in group]))
            | _columns("delta", over_seeds(deltas) if deltas else None)
            | {"ceiling": ergodic_ceiling([1.0] * k, predictions)}
        )
    return _frame(rows)


def paired_differences(runs: Sequence[Trained]) -> pl.DataFrame:
    """Each run against the model trained on one of its categories alone, on that category: the same windows, paired.

    One row a run, category and band of positions (`all` first): the difference with its bootstrap interval, nats a token.
    The single-category model is that of the run's own sweep and seed, else of the sweep `baselines`."""
    singles = {(run.arm, run.seed, run.active[0]): run for run in runs if run.k == 1}
    rows = []
    for run in runs:
        for name in run.active:
            single = singles.get((run.arm, run.seed, name)) or singles.get((BASELINES, run.seed, name))
            if single is None or (run.arm == BASELINES):
                continue
            for band in (None, *run.windows.bands):
                (ids_a, a), (ids_b, b) = run.windows_of(name, band), single.windows_of(name, band)
                rows_a, rows_b = shared_windows(ids_a, ids_b)
                interval = paired_difference(a[rows_a], b[rows_b], np.zeros(len(rows_a)))
                key = {"arm": run.arm, "K": run.k, "seed": run.seed, "category": name, "band": band or "all"}
                rows.append(key | _columns("delta", interval))
    return pl.DataFrame(rows, DIFFERENCES)


def paired_by_k(differences: pl.DataFrame) -> pl.DataFrame:
    """The paired differences averaged over categories, then over seeds with Student's interval, by arm, K and band."""
    by_seed = differences.group_by("arm", "K", "band", "seed", maintain_order=True).agg(pl.col("delta").mean())
    rows = [
        dict(zip(("arm", "K", "band"), key, strict=True))
        | {"seeds": len(group)}
        | _columns("delta", over_seeds(group["delta"].to_list()))
        for key, group in by_seed.group_by("arm", "K", "band", maintain_order=True)
    ]
    schema = {
        name: DIFFERENCES.get(name, pl.Int64)
        for name in ("arm", "K", "band", "seeds", "delta", "delta_low", "delta_high")
    }
    return pl.DataFrame(rows, schema)


def position_curves(runs: Sequence[Trained]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(curves, fits): home-category loss against position, mean over seeds, and c + a t^-b fitted to it, by arm and K.

    A fit that the curve does not determine is in the fits, and no curve."""
    curves, fits = [], []
    for (arm, k), group in _grouped(runs):
        curve_ST = np.stack([run.home_curve() for run in group])
        mean_T = curve_ST.mean(0)
        error_T = _curve_errors(group)
        position_T = np.arange(1, len(mean_T) + 1)
        fit = fit_power_law(position_T, mean_T, error_T)
        kinds = [("measured", mean_T), *([("fit", fit.at(position_T))] if fit.is_determined else [])]
        for kind, values in kinds:
            curves.append(pl.DataFrame({"arm": arm, "K": k, "kind": kind, "position": position_T, "loss": values}))
        fits.append({"arm": arm, "K": k} | _fit_columns(fit))
    return pl.concat(curves), _frame(fits)


def _curve_errors(group: Sequence[Trained]) -> np.ndarray:
    """(T,) standard errors of the mean curve from the windows: seeds are averaged, their windows are independent."""
    variances = []
    for run in group:
        row, matrix = run.record["categories"].index(run.home), run.record["matrix"]
        count, total, square = (np.asarray(matrix[key][row], float) for key in ("count", "sum", "square"))
        variances.append(np.maximum(square / count - (total / count) ** 2, 1e-12) / count)
    error: np.ndarray = np.sqrt(np.sum(variances, axis=0)) / len(group)
    return error


def in_context(runs: Sequence[Trained]) -> pl.DataFrame:
    """The in-context score in the home category with its interval over seeds, by arm and K."""
    rows = [
        {"arm": arm, "K": k, "seeds": len(group)}
        | _columns("score", over_seeds([run.home_in_context() for run in group]))
        for (arm, k), group in _grouped(runs)
    ]
    return _frame(rows)


def by_category(runs: Sequence[Trained]) -> pl.DataFrame:
    """Mean loss over seeds of every category under every K, and whether the category was trained on (share of runs)."""
    rows = []
    for (arm, k), group in _grouped(runs):
        for name in group[0].record["categories"]:
            loss = math.fsum(run.category_loss(name) for run in group) / len(group)
            trained = sum(name in run.active for run in group) / len(group)
            rows.append({"arm": arm, "K": k, "category": name, "loss": loss, "trained": trained})
    return pl.DataFrame(rows)


def quantities(runs: Sequence[Trained]) -> pl.DataFrame:
    """Unique tokens, total tokens and passes of every run: what K must not change unless the design says so."""
    rows = [
        {"arm": run.arm, "K": run.k, "seed": run.seed, "categories": ", ".join(run.active)}
        | {key: run.data.get(key) for key in ("unique_tokens", "total_tokens", "passes", "steps")}
        | {"loss": run.loss, "home": run.home, "home loss": run.category_loss(run.home)}
        for run in runs
    ]
    return _frame(rows)


def _grouped(runs: Iterable[Trained]) -> list[tuple[tuple[str, int], list[Trained]]]:
    groups: dict[tuple[str, int], list[Trained]] = {}
    for run in sorted(runs, key=lambda run: (run.k, run.seed)):
        groups.setdefault((run.arm, run.k), []).append(run)
    return sorted(groups.items(), key=lambda item: item[0][0])


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """An interval as three columns; a limit that the data cannot give is null."""
    values = (None, None, None) if interval is None else interval
    finite = [value if value is not None and math.isfinite(value) else None for value in values]
    return dict(zip((name, f"{name}_low", f"{name}_high"), finite, strict=True))


def _fit_columns(fit: PowerLaw) -> dict[str, Any]:
    return (
        _columns("c", fit.c)
        | _columns("a", fit.a)
        | _columns("b", fit.b)
        | {
            "misfit": fit.misfit,
            "state": "determined" if fit.is_determined else "not determined",
        }
    )


def _frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame; a column of nothing but nulls holds numbers that the data could not give."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_columns(pl.col(pl.Null).cast(pl.Float64))
