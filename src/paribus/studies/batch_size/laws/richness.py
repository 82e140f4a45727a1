"""How the best eta, the largest stable one and the sharpness follow the richness gamma (Atanasov et al. 2024)."""

import math
from collections.abc import Callable

import numpy as np
import polars as pl

from paribus.studies.batch_size.laws.law import Law, judged, mean_spread, resting_on, slope
from paribus.studies.batch_size.laws.optimum import border, eta_max, eta_star
from paribus.studies.batch_size.laws.settings import (
    DEPTH,
    ETA,
    GAMMA,
    alike,
    by_seed,
    is_fixed,
    is_only,
    is_swept,
    log2,
    measured,
    seeds,
    told,
    values,
)

_LAZY, _RICH = 0.1, 10.0  # gamma at and below, at and above which the limits' slopes are read off
_LAZIEST = (1e-4, 1e-2)  # where the linearized network's sharpness is that of the network to .5 %
_TAUS = (0.25, 0.5)


def lazy_optimum(runs: pl.DataFrame) -> list[Law]:
    """eta* ~ gamma^2 where the network is linear in its parameters: its kernel is 1 / gamma^2 of that at gamma = 1."""
    return _rates(runs, "lazy: η⋆", pl.col(GAMMA) <= _LAZY, eta_star, lambda depth: 2.0, 0.2, lambda group: 0.0)


def rich_border(runs: pl.DataFrame) -> list[Law]:
    """eta_max ~ gamma^(2/L): weights grow as gamma^(1/L), so the sharpness falls as gamma^(-2/L).

    eta* is not used: at a fixed time it drifts, as rich networks need the longer to leave their start."""
    return _rates(runs, "rich: η_max", pl.col(GAMMA) >= _RICH, eta_max, lambda depth: 2 / depth, 0.12, _bracket)


def _rates(
    runs: pl.DataFrame,
    name: str,
    regime: pl.Expr,
    measure: Callable[[pl.DataFrame], float],
    theory: Callable[[int], float],
    margin: float,
    resolution: Callable[[pl.DataFrame], float],
) -> list[Law]:
    """The slope in gamma of an eta, before it is scaled by gamma; of groups at a fixed time with several etas each."""
    laws = []
    for group in alike(runs.filter(regime), GAMMA):
        gammas, depth = values(group, GAMMA), int(group[DEPTH][0])
        is_sgd = is_only(group, "train.optimizer.kind", "sgd")
        if len(gammas) < 3 or not is_sgd or not is_swept(group, GAMMA) or is_fixed(group):
            continue
        scale = np.array([log2_scale(group, gamma) for gamma in gammas])
        rows = [(np.array(one) + scale).tolist() for one in by_seed(group, GAMMA, measure)]
        expected = theory(depth)
        found = slope(log2(gammas), rows, resolution(group))
        span = f"γ = {gammas[0]:g} to {gammas[-1]:g}"
        bounds = (expected - margin, expected + margin)
        evidence = resting_on(rows, "gammas", len(gammas))
        laws.append(judged(name, f"log2 slope in γ, {span}, {told(group)}", found, expected, bounds, evidence))
    return laws


def _bracket(group: pl.DataFrame) -> float:
    """The mean width, in log2, between the etas that enclose the borders of a group."""
    widths = [border(runs) for seed in seeds(group) for runs in seed.partition_by(GAMMA)]
    return float(np.nanmean([high - low for low, high in widths])) if np.isfinite(widths).any() else 0.0


def log2_scale(group: pl.DataFrame, gamma: float) -> float:
    """log2 g(gamma) of the rate of SGD, eta g w: gamma^2 up to 1, gamma^(2/L) above; 0 where runs leave g out."""
    if not is_only(group, "train.scale_by_gamma", True):
        return 0.0
    return math.log2(gamma) * (2.0 if gamma <= 1 else 2 / int(group[DEPTH][0]))


def lazy_sharpness(runs: pl.DataFrame, evaluations: pl.DataFrame) -> list[Law]:
    """lambda_max gamma^2 before training does not depend on gamma: how far it spreads, relative to its mean."""
    laws = []
    for group in alike(runs.filter(pl.col(GAMMA).is_between(*_LAZIEST)), GAMMA):
        first = measured(evaluations, group, "sharpness").filter(pl.col("at") == 0)
        gammas = values(group, GAMMA)
        if len(gammas) < 3 or not len(first):
            continue
        scaled = first.with_columns(value=pl.col("value") * pl.col(GAMMA) ** 2)
        rows = by_seed(scaled, GAMMA, lambda found: float(found["value"].mean()))  # type: ignore[arg-type]
        spread = mean_spread(rows)
        evidence = resting_on(rows, "gammas", len(gammas))
        quantity = f"spread of λ_max γ² over γ = {gammas[0]:g} to {gammas[-1]:g}, {told(group)}"
        laws.append(judged("lazy: sharpness", quantity, spread, 0.0, (-math.inf, 0.005), evidence))
    return laws


def rich_sharpness(runs: pl.DataFrame, evaluations: pl.DataFrame) -> list[Law]:
    """lambda_max after training ~ gamma^(-2/L), of runs at one eta before it is scaled by g(gamma) = gamma^(2/L)."""
    laws = []
    for group in alike(runs.filter((pl.col(GAMMA) >= _RICH) & (pl.col("state") == "done")), GAMMA):
        gammas, depth = values(group, GAMMA), int(group[DEPTH][0])
        last = measured(evaluations, group, "sharpness").filter(pl.col("at") == pl.col("step"))
        is_scaled = is_only(group, "train.scale_by_gamma", True)
        if len(gammas) < 3 or not len(last) or group[ETA].n_unique() > 1 or not is_scaled:
            continue
        rows = by_seed(last.filter(pl.col("value") > 0), GAMMA, lambda found: math.log2(found["value"].mean()))  # type: ignore[arg-type]
        evidence = resting_on(rows, "gammas", len(gammas))
        quantity = f"log2 slope of λ_max after training in γ, γ = {gammas[0]:g} to {gammas[-1]:g}, {told(group)}"
        bounds = (-2 / depth - 0.15, -2 / depth + 0.15)
        found = slope(log2(gammas), rows)
        laws.append(judged("rich: sharpness", quantity, found, -2 / depth, bounds, evidence))
    return laws


def tau_collapse(runs: pl.DataFrame, evaluations: pl.DataFrame) -> list[Law]:
    """Early in the rich regime weights move with tau = eta t / gamma alone: the error is the target itself, and the
    gradient of the output is 1 / gamma of that at gamma = 1. eta is that before g."""
    laws = []
    rich = runs.filter((pl.col(GAMMA) >= _RICH) & pl.col("train.optimizer.kind").eq("sgd"))
    for group in alike(rich, GAMMA):
        gammas = values(group, GAMMA)
        moved = measured(evaluations, group, "weight_change/W1")
        if len(gammas) < 3 or not len(moved):
            continue
        scale = {gamma: 2 ** log2_scale(group, gamma) / gamma for gamma in gammas}
        timed = moved.with_columns(
            tau=pl.col(ETA) * pl.col("at") * pl.col(GAMMA).replace_strict(scale, return_dtype=pl.Float64)
        )
        for tau in _TAUS:
            at = timed.filter((pl.col("tau") / tau - 1).abs() < 1e-6)  # etas are gamma times a constant, to rounding
            if at[GAMMA].n_unique() < 3:
                continue
            rows = by_seed(at, GAMMA, lambda found: float(found["value"].mean()))  # type: ignore[arg-type]
            spread = mean_spread(rows)
            evidence = resting_on(rows, "gammas", len(rows[0]))
            quantity = (
                f"spread of the change of W1 over γ = {gammas[0]:g} to {gammas[-1]:g} at τ = {tau:g}, {told(group)}"
            )
            laws.append(judged("rich: τ collapse", quantity, spread, 0.0, (-math.inf, 0.03), evidence))
    return laws
