"""What a law is: a number measured on runs, its interval, what theory says, and whether the two agree."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.generators import generator
from paribus.evals.statistics import Interval, student_quantile
from paribus.words import counted

State = Literal["holds", "fails", "inconclusive"]
Floats = NDArray[np.float64]
Statistic = Callable[[Floats], float]  # the mean over seeds at K points, (K,) -> a number
_RESAMPLES = 1000  # the Monte-Carlo error of a standard error is then 2 % of it
_UNKNOWN = Interval(math.nan, math.nan, math.nan)


class Law(NamedTuple):
    """One fitted number against theory; nan where the runs do not determine it."""

    name: str
    quantity: str  # what was measured, and on which runs
    estimate: float
    low: float  # 95 % interval; nan: no interval
    high: float
    theory: float
    bounds: tuple[float, float]  # of the estimate, within which the law holds
    verdict: State
    evidence: str  # on how much data it rests, or why it cannot be told


def judged(name: str, quantity: str, found: Interval, theory: float, bounds: tuple[float, float], evidence: str) -> Law:
    """The verdict by inclusion (Schuirmann 1987): an interval within the bounds holds, one that misses them fails.

    Without an interval nothing is decided: one seed may say anything."""
    inside = bounds[0] <= found.low and found.high <= bounds[1]
    outside = found.high < bounds[0] or found.low > bounds[1]
    state: State = "holds" if inside else "fails" if outside else "inconclusive"
    if math.isnan(found.mean):
        evidence = f"not determined: {evidence}"
    elif math.isnan(found.low):
        evidence = f"{evidence}: no interval, so no verdict"
    return Law(name, quantity, *found, theory, bounds, state, evidence)


def slope(
    x: Sequence[float] | Floats, values: Sequence[Sequence[float]], resolution: float = 0.0, seed: int = 0
) -> Interval:
    """The slope of least squares of y against x, with a bootstrap interval over seeds; one seed has none.

    The scatter of one seed about its line is no substitute: what all its points share, such as its teacher, is not in it.
    x: K points. values: y of each seed, K numbers each; a seed in which one is not determined (nan) is left out.
    resolution: the width within which each y is known, which adds its variance, width^2 / 12: in full, since seeds that
    share a grid of etas share their rounding."""
    x_K = np.asarray(x, np.float64)
    known_SK = _known(values)
    if len(x_K) < 3 or not len(known_SK):
        return _UNKNOWN

    centred_K = x_K - x_K.mean()
    weights_K = centred_K / (centred_K @ centred_K)  # the slope of least squares is weights . y
    found = float(known_SK.mean(0) @ weights_K)
    size = len(known_SK)
    if size == 1:
        return Interval(found, math.nan, math.nan)
    slopes_S = known_SK @ weights_K
    draws = generator(seed, "replicates", size).integers(0, size, (_RESAMPLES, size))
    spread = float(slopes_S[draws].mean(1).std())
    rounding = resolution**2 / 12 * float(weights_K @ weights_K)
    return _interval(found, math.sqrt(spread**2 + rounding * (size - 1) / size), size)


def over_replicates(values: Sequence[Sequence[float]] | Floats, statistic: Statistic, seed: int = 0) -> Interval:
    """A statistic of the mean over S seeds, with its bootstrap interval over them; one seed has none.

    values: K numbers a seed; a seed in which one is not determined (nan) is left out."""
    known_SK = _known(values)
    if not len(known_SK):
        return _UNKNOWN
    mean, size = statistic(known_SK.mean(0)), len(known_SK)
    if size == 1:
        return Interval(mean, math.nan, math.nan)
    draws = generator(seed, "replicates", size).integers(0, size, (_RESAMPLES, size))
    spread = np.std([statistic(mean_K) for mean_K in known_SK[draws].mean(1)])
    return _interval(mean, float(spread), size)


def mean_spread(values: Sequence[Sequence[float]]) -> Interval:
    """How far K values spread within a seed, (max - min) / mean, on average over seeds.

    Within each: seeds differ in scale, and deviations of opposite signs must not cancel."""
    known_SK = _known(values)
    if not known_SK.size:
        return _UNKNOWN
    return over_replicates((np.ptp(known_SK, 1) / known_SK.mean(1))[:, None], lambda mean: float(mean[0]))


def _known(values: Sequence[Sequence[float]] | Floats) -> Floats:
    table_SK = np.atleast_2d(np.asarray(values, np.float64))
    return table_SK[np.isfinite(table_SK).all(1)]


def _interval(mean: float, spread: float, size: int) -> Interval:
    """Student's interval about a bootstrap's standard error over n seeds, which n / (n - 1) puts right for few of them.

    Percentiles of so few replicates cover too seldom: 80 % of the time for four (Hesterberg 2015, sections 3 and 4)."""
    half = student_quantile(0.975, size - 1) * spread * math.sqrt(size / (size - 1))
    return Interval(mean, mean - half, mean + half)


def resting_on(values: Sequence[Sequence[float]], points: str, number: int) -> str:
    """`7 gammas, 4 seeds`, and how many seeds were left out."""
    known, tried = len(_known(values)) if len(values) else 0, len(values)
    left = f" ({counted(tried - known, 'seed')} of {tried} undetermined)" if known < tried else ""
    return f"{number} {points}, {counted(known, 'seed')}{left}"
