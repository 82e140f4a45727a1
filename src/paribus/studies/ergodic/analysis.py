"""From finished text runs to the study's numbers: loss against K, by position, paired on shared windows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from paribus import config as configs
from paribus.data.config import NestedCategories, Seeds, TextData
from paribus.data.mixture import choose_categories
from paribus.data.places import view_of
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
    "run": pl.String,
    "K": pl.Int64,
    "seed": pl.Int64,
    "category": pl.String,
    "band": pl.String,
    "delta": pl.Float64,
    "delta_low": pl.Float64,
    "delta_high": pl.Float64,
}
PAIRED = {
    "arm": pl.String,
    "K": pl.Int64,
    "band": pl.String,
    "runs": pl.Int64,
    "over": pl.String,
    "delta": pl.Float64,
    "delta_low": pl.Float64,
    "delta_high": pl.Float64,
}
_PAIR = ("arm", "run", "category", "band")  # what a difference is of


class Trained(NamedTuple):
    """One finished run with its evaluation on the windows that all runs share."""

    arm: str  # the sweep it belongs to
    seeds: Seeds
    labels: int | None  # the seed that dealt the categories out anew; None: they are the original ones
    active: tuple[str, ...]  # the K categories it was trained on
    home: str | None  # the category of the K = 1 run of these seeds; None: the categories of different K are not nested
    record: Mapping[str, Any]
    windows: WindowTable
    data: Mapping[str, Any]  # unique_tokens, total_tokens, passes, steps
    path: Path

    @property
    def k(self) -> int:
        return len(self.active)

    @property
    def seed(self) -> int:
        """The seed that the choice of categories depends on, or the order of the windows where it depends on none."""
        return self.seeds.order if self.home is None else self.seeds.categories

    @property
    def focus(self) -> tuple[str, ...]:
        """The categories on which this run is held against those of other K: its home, which every K of its seed has in
        common, and all active ones where the categories are not nested."""
        return self.active if self.home is None else (self.home,)

    @property
    def ground(self) -> tuple[int | None, str]:
        """Two runs can be compared where this is equal: categories of one name hold the same documents in both, and both
        were scored on the same windows."""
        return self.labels, self.record["windows"]["fingerprint"]

    def category_loss(self, name: str) -> float:
        return float(self.record["by_category"]["mean"][self.record["categories"].index(name)])

    @property
    def loss(self) -> float:
        """XE_K: the mean over the active categories, nats a token."""
        return math.fsum(self.category_loss(name) for name in self.active) / self.k

    def curve(self, name: str) -> np.ndarray:
        """(T,) loss by position in one category."""
        row, matrix = self.record["categories"].index(name), self.record["matrix"]
        curve: np.ndarray = np.asarray(matrix["sum"][row]) / np.asarray(matrix["count"][row])
        return curve

    def curve_error(self, name: str) -> np.ndarray:
        """(T,) standard error of `curve` from the spread over windows."""
        row, matrix = self.record["categories"].index(name), self.record["matrix"]
        count, total, square = (np.asarray(matrix[key][row], float) for key in ("count", "sum", "square"))
        error: np.ndarray = np.sqrt(np.maximum(square / count - (total / count) ** 2, 1e-12) / count)
        return error

    def in_context(self) -> float:
        """L(a) - L(b), the mean over the focus."""
        scores = self.record["in_context"]["by_category"]["mean"]
        return math.fsum(scores[self.record["categories"].index(name)] for name in self.focus) / len(self.focus)

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
    active = choose_categories(config.data.categories, available, config.seeds.categories)
    home = None
    if isinstance(config.data.categories, NestedCategories):
        home = choose_categories(NestedCategories(k=1), available, config.seeds.categories)[0]
    return Trained(
        arm,
        config.seeds,
        view_of(config.data, config.seeds).labels_seed,
        active,
        home,
        result.record,
        result.windows,
        provenance(path).get("data", {}),
        path,
    )


def loss_by_k(runs: Sequence[Trained]) -> pl.DataFrame:
    """XE_K over runs, its difference to XE_1 of the same seeds where categories are nested, and theory's ceiling."""
    rows = []
    for (arm, k), group in _grouped(runs):
        singles = {run.seeds: run.loss for run in runs if run.arm == arm and run.k == 1 and run.home is not None}
        paired = [run for run in group if run.home is not None and run.seeds in singles]
        deltas = [run.loss - singles[run.seeds] for run in paired]
        predictions = group[0].record["windows"]["predictions"]
        rows.append(
            {"arm": arm, "K": k}
            | (over_runs("delta", paired, deltas) if paired else dict.fromkeys(("delta", "delta_low", "delta_high")))
            | over_runs("loss", group, [run.loss for run in group])
            | {"ceiling": ergodic_ceiling([1.0] * k, predictions)}
        )
    return _frame(rows)


def over_runs(name: str, runs: Sequence[Trained], values: Sequence[float]) -> dict[str, Any]:
    """One value a run -> their mean and what it spreads over, as columns `runs`, `over`, NAME, NAME_low and NAME_high.

    Over seeds the limits are those of Student's 95 % interval. Subsets of the categories are no draws of one another's
    kind: they overlap, and differ because their categories do. Over those the limits are the least and the greatest
    subset, each the mean of its seeds. One run alone has no limits."""
    if len(runs) == 1:
        return {"runs": 1, "over": "one run"} | over_seeds(values).columns(name)
    subsets: dict[tuple[str, ...], list[float]] = {}
    for run, value in zip(runs, values, strict=True):
        subsets.setdefault(run.active, []).append(value)
    if len(subsets) == 1 or all(run.home is not None for run in runs):
        return {"runs": len(runs), "over": "seeds"} | over_seeds(values).columns(name)
    means = [math.fsum(each) / len(each) for each in subsets.values()]
    spread = Interval(math.fsum(means) / len(means), min(means), max(means))
    return {"runs": len(runs), "over": "subsets"} | spread.columns(name)


def paired_differences(runs: Sequence[Trained]) -> pl.DataFrame:
    """Each run against the model trained on one of its categories alone, on that category: the same windows, paired.

    One row a run, category and band of positions (`all` first): the difference with its bootstrap interval, nats a token.
    The single-category model is that of the run's own sweep and seeds, else that of the sweep `baselines`, whatever its
    seeds, if it was trained under the same labels and scored on the same windows; without one there is no row."""
    singles = [run for run in runs if run.k == 1]
    own = {(run.arm, run.seeds, run.active[0], run.ground): run for run in singles}
    baselines = {(run.active[0], run.ground): run for run in singles if run.arm == BASELINES}
    rows = []
    for run in runs:
        for name in run.active:
            single = own.get((run.arm, run.seeds, name, run.ground)) or baselines.get((name, run.ground))
            if single is None or (run.arm == BASELINES):
                continue
            for band in (None, *run.windows.bands):
                (ids_a, a), (ids_b, b) = run.windows_of(name, band), single.windows_of(name, band)
                rows_a, rows_b = shared_windows(ids_a, ids_b)
                interval = paired_difference(a[rows_a], b[rows_b], np.zeros(len(rows_a)))
                key = {"arm": run.arm, "run": run.path.name, "K": run.k, "seed": run.seed, "category": name}
                rows.append(key | {"band": band or "all"} | interval.columns("delta"))
    return pl.DataFrame(rows, DIFFERENCES)


def paired_by_k(runs: Sequence[Trained], differences: pl.DataFrame) -> pl.DataFrame:
    """The paired differences in the categories of each run's focus, then over runs, by arm, K and band.

    Nested runs count their home alone, so that every seed estimates the same quantity: what K does to the loss on a
    category drawn at random. Their partner is the K = 1 run of their own seeds, so that the seeds are independent, as
    Student's interval needs; the models of `baselines` serve all seeds at once, and an average over all categories would
    tie the seeds to each other. (One stands in for a K = 1 run that is missing.) Runs that are not nested count all their
    categories, and none if a partner is missing."""
    delta = {tuple(key): value for *key, value in differences.select(*_PAIR, "delta").iter_rows()}
    rows = []
    for (arm, k), group in _grouped(runs):
        for band in differences["band"].unique(maintain_order=True):
            each = [(run, [(arm, run.path.name, name, band) for name in run.focus]) for run in group]
            paired = {n: keys for n, (_, keys) in enumerate(each) if delta.keys() >= set(keys)}
            deltas = [math.fsum(delta[key] for key in keys) / len(keys) for keys in paired.values()]
            if paired:
                columns = over_runs("delta", [group[n] for n in paired], deltas)
                rows.append({"arm": arm, "K": k, "band": band} | columns)
    return pl.DataFrame(rows, PAIRED)


def effects(paired: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of `paired_by_k` at each sweep's largest K, over all positions; none of a sweep that has K = 1 alone."""
    overall = paired.filter(pl.col("band") == "all", pl.col("K") > 1)
    return overall.filter(pl.col("K") == pl.col("K").max().over("arm")).rows(named=True)


def position_curves(runs: Sequence[Trained]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(curves, fits): loss against position in the focus, mean over runs, and c + a t^-b fitted to it, by arm and K.

    A fit that the curve does not determine is in the fits, and no curve."""
    curves, fits = [], []
    for (arm, k), group in _grouped(runs):
        mean_T = np.mean([np.mean([run.curve(name) for name in run.focus], axis=0) for run in group], axis=0)
        position_T = np.arange(1, len(mean_T) + 1)
        fit = fit_power_law(position_T, mean_T, _curve_error(group))
        kinds = [("measured", mean_T), *([("fit", fit.at(position_T))] if fit.is_determined else [])]
        for kind, values in kinds:
            curves.append(pl.DataFrame({"arm": arm, "K": k, "kind": kind, "position": position_T, "loss": values}))
        fits.append({"arm": arm, "K": k} | _fit_columns(fit))
    return pl.concat(curves), _frame(fits)


def _curve_error(group: Sequence[Trained]) -> np.ndarray:
    """(T,) standard error of the mean curve from the spread over windows.

    Models that are scored on the same windows of a category share what makes them hard: their errors add up as they are;
    those of different windows are independent."""
    shared: dict[tuple[str, str], list[np.ndarray]] = {}
    for run in group:
        for name in run.focus:
            key = name, run.record["windows"]["fingerprint"]
            shared.setdefault(key, []).append(run.curve_error(name) / len(run.focus) / len(group))
    error: np.ndarray = np.sqrt(np.sum([np.sum(errors, axis=0) ** 2 for errors in shared.values()], axis=0))
    return error


def in_context(runs: Sequence[Trained]) -> pl.DataFrame:
    """The in-context score in the focus, over runs, by arm and K."""
    rows = [
        {"arm": arm, "K": k} | over_runs("score", group, [run.in_context() for run in group])
        for (arm, k), group in _grouped(runs)
    ]
    return _frame(rows)


def by_category(runs: Sequence[Trained]) -> pl.DataFrame:
    """Mean loss over runs of every category under every K, and whether the category was trained on (share of runs)."""
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
        | {"loss": run.loss, "home": run.home}
        | {"home loss": None if run.home is None else run.category_loss(run.home)}
        for run in runs
    ]
    return _frame(rows)


def _grouped(runs: Iterable[Trained]) -> list[tuple[tuple[str, int], list[Trained]]]:
    groups: dict[tuple[str, int], list[Trained]] = {}
    for run in sorted(runs, key=lambda run: (run.k, run.seed)):
        groups.setdefault((run.arm, run.k), []).append(run)
    return sorted(groups.items(), key=lambda item: item[0][0])


def _fit_columns(fit: PowerLaw) -> dict[str, Any]:
    return (
        fit.c.columns("c")
        | fit.a.columns("a")
        | fit.b.columns("b")
        | {
            "misfit": fit.misfit,
            "state": "determined" if fit.is_determined else "not determined",
        }
    )


def _frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame; a column of nothing but nulls holds numbers that the data could not give."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_columns(pl.col(pl.Null).cast(pl.Float64))
