"""Do the experiments of one run disturb one another? Each is left out once, and every experiment's metric is measured.

The model. A metric of a run is its expectation plus seed noise of standard deviation sigma. An effect is that of the run
without an experiment minus that of the full run of the same seeds, so that its variance is 2 sigma^2 (1 - rho), where rho
is the correlation of the two runs' noise. Two designs estimate it:

- unpaired: control seeds of the full run alone. They tell sigma, not rho. Runs of the same seeds share their weights and
  their order, so rho >= 0 is assumed and 0 is taken: effect / (sd sqrt 2) is Student's t with m - 1 degrees of freedom
  for m control seeds at rho = 0, and smaller beyond, so that the test errs to the safe side. The full run itself does
  not go into sd: it stands in the effect, and numerator and denominator must be independent.
- paired: control seeds of the full run and of every run that leaves one out. The K = m + 1 differences of the same seeds
  are a direct sample of the effect: mean / (sd / sqrt K) is Student's t with K - 1 degrees of freedom, whatever rho is.

Array keys: n experiments, their metrics in the same order; K seeds, the main one first.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paribus import experiment
from paribus.errors import RunError
from paribus.evals.statistics import student_within
from paribus.report import collect
from paribus.report.blocks import Block, Column, Figure, Table, Verdict, Verdicts
from paribus.report.charts import Axis, heat_map
from paribus.run_config import RunConfig

Floats = NDArray[np.float64]
Metrics = Mapping[str, tuple[str, str]]  # experiment -> (evaluation, metric)
# the metric of each kind of evaluation that moves first: continuous, where an accuracy jumps
METRIC = {"canary": "nll_byte", "fictional": "log_probability", "ranked": "gold_bits_per_byte", "verbatim": "matching"}


class Runs(NamedTuple):
    """Run directories; those of a design without pairs leave out at the main seed only."""

    full: Sequence[Path]  # K: the main seed, then the control seeds
    left_out: Mapping[str, Sequence[Path]]  # experiment -> the run without it at the main seed, or at all K seeds


class Dependence(NamedTuple):
    """What leaving out experiment i (row) does to the metric of experiment j (column)."""

    experiments: tuple[str, ...]
    is_paired: bool
    values: Floats  # (n + 1, n): the full run, then without each; means over seeds in a paired design
    effects: Floats  # (n, n)
    error: Floats  # (n, n): the standard error of an effect, from the noise floor
    freedom: int
    statistic: Floats  # (n, n): effect / error, Student's t where nothing depends
    p: Floats  # (n, n), two-sided
    p_holm: Floats  # (n, n): corrected over the n (n - 1) tests off the diagonal; nan on it

    def table(self) -> pl.DataFrame:
        """One row a cell."""
        n = len(self.experiments)
        cells = {"effect": self.effects, "error": self.error, "t": self.statistic, "p": self.p, "p_holm": self.p_holm}
        return pl.DataFrame(
            {
                "left_out": np.repeat(self.experiments, n),
                "metric_of": np.tile(self.experiments, n),
                "is_own": np.eye(n, dtype=bool).ravel(),
                "full": np.tile(self.values[0], n),
                "without": self.values[1:].ravel(),
                **{name: array.ravel() for name, array in cells.items()},
            }
        ).with_columns(pl.col("p_holm").fill_nan(None))

    def matrix(self) -> pl.DataFrame:
        """The (n + 1) x n values, a row for the full run and for each that is left out."""
        columns = {name: self.values[:, j] for j, name in enumerate(self.experiments)}
        return pl.DataFrame({"left_out": ["nothing", *self.experiments], **columns})


def sort_runs(paths: Sequence[Path]) -> Runs:
    """Tell the runs of a sweep apart by `insertions.without` and their seeds; the first full run has the main seeds.

    Raises RunError when there is no full run, or a run leaves out several experiments or has seeds of no full run,
    or two differ in something else than that."""
    full: dict[str, Path] = {}
    left_out: dict[str, dict[str, Path]] = {}
    for path in paths:
        config = experiment.read(path)
        without = config.insertions.without if config.insertions else []
        seeds = config.seeds.model_dump_json()
        if len(without) > 1 or config.insertions is None or config.insertions.control:
            raise RunError(f"{path}: leaves out {without or 'everything'}; one experiment, or none, is expected")
        alike = left_out.setdefault(without[0], {}) if without else full
        if seeds in alike:
            raise RunError(f"{path} and {alike[seeds]}: have the same seeds and leave out the same; keep one of them")
        alike[seeds] = path
    if not full:
        raise RunError("no run without `insertions.without`: the full run is missing")
    for name, found in left_out.items():
        for path in (path for seeds, path in found.items() if seeds not in full):
            raise RunError(f"{path}: no full run has the seeds of this one without {name}")
        if (main := next(iter(full))) not in found:
            raise RunError(f"{name}: no run without it has the seeds of {full[main]}")
    is_paired = all(len(found) == len(full) for found in left_out.values())
    chosen = list(full) if is_paired else list(full)[:1]
    return Runs(list(full.values()), {name: [found[seeds] for seeds in chosen] for name, found in left_out.items()})


def metrics_of(paths: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """The metric of each experiment that some run leaves out: that of the evaluation on the experiment's own lines.

    Empty where no run leaves one out, or where what one does is not evaluated."""
    found: dict[str, tuple[str, str]] = {}
    for config in map(experiment.read, paths):
        for name in config.insertions.without if config.insertions else ():
            evaluation = _own_evaluation(config, name)
            if evaluation is None:
                return {}
            found[name] = evaluation, METRIC[config.evals[evaluation].kind]
    return found


def _own_evaluation(config: RunConfig, name: str) -> str | None:
    assert config.insertions is not None
    wanted = config.insertions.experiments[name].model_dump()
    for evaluation, section in config.evals.items():
        asked = section.model_dump()
        is_own = asked.get("file") == wanted.get("file") and asked.get("items") in (None, wanted.get("items"))
        if is_own and section.kind in METRIC:
            return evaluation
    return None


def measure(runs: Runs, metrics: Metrics) -> Dependence:
    """Read the newest results of the runs and test them; the experiments are those of `metrics`, in its order.

    Raises RunError for an experiment that no run leaves out, and for a result that a run does not have."""
    if missing := [name for name in metrics if name not in runs.left_out]:
        raise RunError(
            f"no run leaves out {', '.join(missing)}; found runs without {', '.join(runs.left_out) or 'none'}"
        )

    def row(path: Path) -> list[float]:
        return [_value(path, *where) for where in metrics.values()]

    full_Kn = np.array([row(path) for path in runs.full])
    left_nkn = np.array([[row(path) for path in runs.left_out[name]] for name in metrics])
    return judge(tuple(metrics), full_Kn, left_nkn)


def _value(path: Path, evaluation: str, metric: str) -> float:
    summary = collect.evaluation(path, evaluation)["summary"]
    if metric not in summary:
        raise RunError(f"{path}: evaluation `{evaluation}` has no metric {metric!r}; it has {', '.join(summary)}")
    return float(summary[metric])


def judge(experiments: tuple[str, ...], full_Kn: Floats, left_nkn: Floats) -> Dependence:
    """full_Kn: the metrics of the full runs, main seed first; left_nkn: of the runs without each experiment, at the main
    seed alone (k = 1: unpaired) or at all K seeds (paired).

    Raises RunError for fewer than two control seeds (paired: than one), and for a metric that the seeds do not move: its
    noise is then unknown, not zero."""
    seeds, is_paired = len(full_Kn), left_nkn.shape[1] > 1
    freedom = seeds - 1 if is_paired else seeds - 2
    if freedom < 1:
        raise RunError(
            f"{seeds - 1} control seeds found, at least {1 if is_paired else 2} are needed for a noise floor"
        )
    if is_paired:
        differences_nKn = left_nkn - full_Kn
        effects, error = differences_nKn.mean(1), differences_nKn.std(1, ddof=1) / math.sqrt(seeds)
        values = np.vstack([full_Kn.mean(0), left_nkn.mean(1)])
    else:
        effects = left_nkn[:, 0] - full_Kn[0]
        error = np.broadcast_to(full_Kn[1:].std(0, ddof=1) * math.sqrt(2), effects.shape)
        values = np.vstack([full_Kn[0], left_nkn[:, 0]])
    for _, column in np.argwhere(~(error > 0)):
        raise RunError(
            f"the metric of {experiments[column]} does not change with the seed: its noise floor is unknown; choose one "
            "that is continuous, log_probability rather than contains, say"
        )
    statistic = effects / error
    p = np.array([[1 - student_within(abs(t), freedom) for t in row] for row in statistic])
    p = np.clip(p, 0, 1)
    off = ~np.eye(len(experiments), dtype=bool)
    p_holm = np.full_like(p, math.nan)
    p_holm[off] = holm(p[off])
    return Dependence(experiments, is_paired, values, effects, error, freedom, statistic, p, p_holm)


def holm(p_N: Floats) -> Floats:
    """Adjusted p-values that hold the family-wise error rate under any dependence (Holm 1979, section 2)."""
    order = np.argsort(p_N, kind="stable")
    stepped = np.maximum.accumulate(p_N[order] * np.arange(len(p_N), 0, -1))
    adjusted = np.empty_like(p_N)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


# --- in a report -------------------------------------------------------------------------------------------------------


def blocks(found: Dependence, alpha: float = 0.05) -> list[Block]:
    """The matrix as a heat map of t, the cells as a table, and two verdicts: who depends, and whether it could be seen."""
    cells = found.table()
    design = "paired seeds" if found.is_paired else "control seeds of the full run"
    caption = (
        "Rows: the experiment that is left out; columns: whose metric. Cells: the change against the full run over its "
        f"standard error, Student's t with {found.freedom} degrees of freedom where nothing depends ({design})."
    )
    chart = heat_map(
        cells.rename({"left_out": "left out", "metric_of": "metric of"}),
        Axis("metric of", "Metric of"),
        "left out",
        Axis("t", "Effect / error", format="+.2f"),
        diverging=True,
        rows=found.experiments,
    )
    columns = [
        Column("left_out", "Left out"),
        Column("metric_of", "Metric of"),
        Column("full", "Full run"),
        Column("without", "Without"),
        Column("effect", "Effect", "+.4g"),
        Column("error", "Error"),
        Column("t", "t", "+.2f"),
        Column("p", "p", ".2g"),
        Column("p_holm", "p, Holm", ".2g"),
    ]
    return [
        Verdicts([_independence(found, alpha), _positive_control(found, alpha)]),
        Figure("dependence", chart, "What leaving an experiment out does to the others", caption),
        Table(cells, columns, "Every cell; p two-sided, Holm's correction over all cells off the diagonal."),
    ]


def _independence(found: Dependence, alpha: float) -> Verdict:
    names = found.experiments
    hit = [f"{names[i]} moves {names[j]} (p = {found.p_holm[i, j]:.2g})" for i, j in np.argwhere(found.p_holm <= alpha)]
    least = np.nanmin(found.p_holm) if len(names) > 1 else 1.0
    number = len(names) * (len(names) - 1)
    evidence = "; ".join(hit) or f"the least of {number} corrected p-values is {least:.2g}: no dependence was found"
    could_be_seen = bool((np.diagonal(found.p) <= alpha).all())
    state: Literal["holds", "fails", "inconclusive"] = "fails" if hit else "holds" if could_be_seen else "inconclusive"
    return Verdict("The experiments do not disturb one another", state, evidence)


def _positive_control(found: Dependence, alpha: float) -> Verdict:
    own = dict(zip(found.experiments, np.diagonal(found.p), strict=True))
    unseen = [name for name, p in own.items() if p > alpha]
    told = ", ".join(f"{name} p = {p:.2g}" for name, p in own.items())
    evidence = f"{told}; where the own effect does not show, none on others could" if unseen else told
    return Verdict("Leaving an experiment out changes its own metric", "inconclusive" if unseen else "holds", evidence)
