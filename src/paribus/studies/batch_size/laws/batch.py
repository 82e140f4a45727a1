"""How the best eta and the final loss follow the batch size on fixed data: the noise of the gradient sets both."""

import math

import numpy as np
import polars as pl

from paribus.evals.statistics import Interval
from paribus.report.tables import power
from paribus.studies.batch_size.laws.law import Floats, Law, judged, mean_spread, over_replicates, resting_on, slope
from paribus.studies.batch_size.laws.optimum import LOSS, eta_star
from paribus.studies.batch_size.laws.settings import (
    BATCH,
    ETA,
    GAMMA,
    STABLE,
    alike,
    by_seed,
    is_fixed,
    is_only,
    is_swept,
    log2,
    told,
    values,
)

_SMALL, _LARGE = (1, 16), (256, 2048)
_COLLAPSING = 64  # the largest batch that collapses with a batch of one
_MARGIN = 0.02


def eta_against_batch(runs: pl.DataFrame) -> list[Law]:
    """eta* against B after one pass over fixed data: its slopes, and eta* = eta_inf / (1 + B_n / B) (McCandlish et al.
    2018, equation 2.11). Fixed time follows another law and is left out."""
    laws = []
    for group in _one_pass(runs):
        if not is_swept(group, BATCH):
            continue
        batches = values(group, BATCH)
        rows = by_seed(group, BATCH, eta_star)
        table, points = np.array(rows), np.array(batches)
        for (low, high), theory, bounds in ((_SMALL, 1.0, (0.9, 1.1)), (_LARGE, 0.0, (-math.inf, 0.6))):
            inside = (points >= low) & (points <= high)
            if inside.sum() >= 3:
                part = table[:, inside].tolist()
                quantity = f"log2 slope of η⋆ in B, B = {low} to {high}, {told(group)}"
                evidence = resting_on(part, "batch sizes", int(inside.sum()))
                found = slope(log2(points[inside]), part)
                laws.append(judged("batch size: η⋆", quantity, found, theory, bounds, evidence))
        if batches[0] <= _SMALL[1] and batches[-1] >= _LARGE[0] and len(batches) >= 5:
            laws += _saturation(group, rows, log2(batches))
    return laws


def _one_pass(runs: pl.DataFrame) -> list[pl.DataFrame]:
    """Groups over B at gamma = 1 with one pass over fixed data and the squared error: the setting of both laws."""
    kept = runs.filter((pl.col(GAMMA) == 1) & (pl.col("loss") == "mse"))
    found = [group for group in alike(kept, BATCH) if is_fixed(group) and is_only(group, "train.budget.epochs", 1)]
    return [group for group in found if group[BATCH].n_unique() >= 3]


def _saturation(group: pl.DataFrame, rows: list[list[float]], log2_batch: Floats) -> list[Law]:
    evidence = resting_on(rows, "batch sizes", len(log2_batch))
    log2_noise = over_replicates(rows, lambda mean: fit_noise(log2_batch, mean)[0])
    noise = Interval(*(2**value for value in log2_noise))
    rms = over_replicates(rows, lambda mean: fit_noise(log2_batch, mean)[1])
    name, span = "batch size: saturation", told(group)
    return [
        judged(name, f"B_n of η⋆ = η_∞ / (1 + B_n/B), {span}", noise, math.nan, (100.0, 1000.0), evidence),
        judged(name, f"misfit of η_∞ / (1 + B_n / B), rms of log2 η⋆, {span}", rms, 0.0, (-math.inf, 0.25), evidence),
    ]


def fit_noise(log2_batch: Floats, log2_eta: Floats) -> tuple[float, float]:
    """(log2 B_n, rms in log2) of the least squares of log2 eta* = log2 eta_inf - log2(1 + B_n / B).

    eta_inf follows from B_n, which is searched over 2^-4 to 2^20 in steps of 1/64."""
    candidates = np.arange(-4, 20, 1 / 64)
    shape = -np.log2(1 + 2 ** (candidates[:, None] - log2_batch))
    residual = log2_eta - shape
    rms = residual.std(axis=1)
    best = int(rms.argmin())
    return float(candidates[best]), float(rms[best])


def temperature_collapse(runs: pl.DataFrame) -> list[Law]:
    """At one temperature eta / B the final held-out loss does not depend on B while the batches are small: the noise of
    SGD is set by eta / B (Smith & Le 2018). Large batches must leave that curve, or the check would show nothing.

    runs: with one eta for each batch size, all at the very same eta / B."""
    laws = []
    for group in _one_pass(runs):
        temperatures = (group[ETA] / group[BATCH]).unique()
        small, large = group.filter(pl.col(BATCH) <= _COLLAPSING), group.filter(pl.col(BATCH) >= _LARGE[1])
        if len(temperatures) > 1 or small[BATCH].n_unique() < 3:
            continue
        shown = f"η/B = {power(temperatures[0])}, {told(group)}"
        batches = values(small, BATCH)
        rows = by_seed(small, BATCH, _ended)
        spread = mean_spread(rows)
        evidence = resting_on(rows, "batch sizes", len(batches))
        quantity = f"spread of the final loss over B = {batches[0]:g} to {batches[-1]:g} at {shown}"
        laws.append(judged("temperature: collapse", quantity, spread, 0.0, (-math.inf, _MARGIN), evidence))
        if not len(large):
            continue
        first = values(large, BATCH)[0]
        both = [[*some, _ended(one)] for some, one in zip(rows, _seeds_at(small, large, first), strict=True)]
        apart = over_replicates(np.log2(both), lambda mean: float(mean[-1] - mean[:-1].mean()))
        quantity = f"log2 of the final loss of B = {first:g} over that of the small batches at {shown}"
        bounds = (math.log2(1 + _MARGIN), math.inf)
        laws.append(judged("temperature: its end", quantity, apart, math.nan, bounds, evidence))
    return laws


def _seeds_at(small: pl.DataFrame, large: pl.DataFrame, batch: float) -> list[pl.DataFrame]:
    """The run at a batch size of each seed of `small`, in their order."""
    keys = [key for key in ("seeds.data", "seeds.teacher", "seeds.weights") if key in small.columns]
    chosen = large.filter(pl.col(BATCH) == batch)
    return [chosen.join(part.head(1), on=keys, how="semi") for part in small.partition_by(keys, maintain_order=True)]


def _ended(runs: pl.DataFrame) -> float:
    """The final held-out loss of a run; an unstable one counts with the loss that it began with."""
    if not len(runs):
        return math.nan
    unstable = runs.filter(~STABLE)
    return float((unstable["initial/loss"] if len(unstable) else runs[LOSS])[0])
