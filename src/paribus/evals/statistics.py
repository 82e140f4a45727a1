"""What windows, seeds and theory say about a difference of losses: intervals and the ergodic ceiling. NumPy only."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paribus.data.generators import generator
from paribus.errors import DataError

RESAMPLES = 4000  # the Monte-Carlo error of a 95 % limit is then about 2 % of the interval's half-width
_DRAWS_AT_ONCE = 2**21  # resampled windows held in memory at a time


class Interval(NamedTuple):
    """An estimate with its confidence limits; the limits are nan when the data cannot say."""

    mean: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float | None]:
        """As NAME, NAME_low and NAME_high; what the data cannot give is null."""
        finite = [value if math.isfinite(value) else None for value in self]
        return dict(zip((name, f"{name}_low", f"{name}_high"), finite, strict=True))


def bootstrap(values: ArrayLike, strata: ArrayLike, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile interval of the mean over strata of the mean within each (Efron & Tibshirani 1993, chapter 13).

    values: (N,), one a window. strata: (N,) labels, resampled each on its own. Deterministic in `seed`.
    Every stratum counts the same, whatever its size; one with a single window contributes no spread."""
    values_N, strata_N = np.asarray(values, np.float64), np.asarray(strata)
    if values_N.ndim != 1 or values_N.shape != strata_N.shape or not len(values_N):
        raise ValueError(f"expected one stratum for each of N >= 1 values, found {strata_N.shape} and {values_N.shape}")
    labels, codes_N = np.unique(strata_N, return_inverse=True)
    means_R = np.zeros(RESAMPLES)
    for code in range(len(labels)):
        means_R += _resampled_means(values_N[codes_N == code], seed, code)
    means_R /= len(labels)
    mean = float(np.mean([values_N[codes_N == code].mean() for code in range(len(labels))]))
    if len(values_N) == len(labels):
        return Interval(mean, math.nan, math.nan)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def _resampled_means(values_n: NDArray[np.float64], seed: int, stratum: int) -> NDArray[np.float64]:
    """RESAMPLES means of len(values_n) draws with replacement."""
    draw = generator(seed, "bootstrap", stratum)
    rows = max(1, _DRAWS_AT_ONCE // len(values_n))
    blocks = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([values_n[draw.integers(0, len(values_n), (b, len(values_n)))].mean(1) for b in blocks])


def paired_difference(a: ArrayLike, b: ArrayLike, strata: ArrayLike, seed: int = 0, level: float = 0.95) -> Interval:
    """Interval of the loss of model `a` minus that of model `b` on the windows they share.

    a, b: (N,) mean losses of the same windows in the same order (`shared_windows` aligns them). What makes a window
    hard for both cancels, so the interval is narrower than that of two independent sets of windows."""
    return bootstrap(np.asarray(a, np.float64) - np.asarray(b, np.float64), strata, seed, level)


def shared_windows(ids_a: ArrayLike, ids_b: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `a` and rows of `b` that hold the same windows, in the order of `a`.

    A window that was drawn twice pairs with itself in order of appearance. Raises DataError if none is shared."""
    a_N, b_N = np.asarray(ids_a, np.int64), np.asarray(ids_b, np.int64)
    if np.array_equal(a_N, b_N):
        return np.arange(len(a_N)), np.arange(len(b_N))
    place = {window: row for row, window in enumerate(_occurrences(b_N))}
    pairs = [(row, place[window]) for row, window in enumerate(_occurrences(a_N)) if window in place]
    if not pairs:
        raise DataError(
            "the two evaluations share no window, so their losses cannot be paired; "
            "evaluate both with the same store, split, window and seed"
        )
    rows_a, rows_b = zip(*pairs, strict=True)
    return np.asarray(rows_a, np.int64), np.asarray(rows_b, np.int64)


def _occurrences(ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Each id with how often it came before."""
    seen: dict[int, int] = {}
    found = []
    for window in ids.tolist():
        seen[window] = seen.get(window, -1) + 1
        found.append((window, seen[window]))
    return found


def over_seeds(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent runs; one run has no interval."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = student_quantile((1 + level) / 2, n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t for a probability in (.5, 1), by bisection of `student_within`."""
    low, high = 0.0, 1.0
    while student_within(high, freedom) < 2 * probability - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return high


def student_within(t: float, freedom: int) -> float:
    """P(|T| <= t) for a whole number of degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2
    term = cosine if is_odd else 1.0
    series = 0.0
    for power in range(is_odd, freedom - 1, 2):
        series += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * series) if is_odd else sine * series


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share (Wilson 1927): it stays inside [0, 1], and means something where no or every case hits."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle, share = 1 + z * z / n, hits / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((share + z * z / (2 * n) + side * half) / middle for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


def ks_normal(values: ArrayLike) -> tuple[float, float]:
    """The Kolmogorov-Smirnov distance of values from N(0, 1), and its p-value.

    Kolmogorov's limit at Stephens' (1970) argument (sqrt n + .12 + .11 / sqrt n) D: good to .0005 at the 5 % and 1 %
    points of the exact distribution (Miller 1956) from n = 10 on."""
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    expected = np.array([NormalDist().cdf(value) for value in ordered.tolist()])
    distance = float(max((np.arange(1, n + 1) / n - expected).max(), (expected - np.arange(n) / n).max()))
    t = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    if t < 0.3:  # the series below converges slowly there, and 1 - p is below 1e-5
        return distance, 1.0
    p = 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * k * k * t * t) for k in range(1, 101))
    return distance, min(1.0, max(0.0, p))


def entropy(weights: ArrayLike) -> float:
    """H(w) in nats of weights that need not be normalised."""
    w = np.asarray(weights, np.float64)
    w = w[w > 0] / w.sum()
    return float(-(w * np.log(w)).sum())


def ergodic_ceiling(weights: ArrayLike, predictions: int) -> float:
    """What not knowing the component can cost at most, in nats a token: H(w) / T.

    The excess sums to I(C; X_1..T) <= H(w) over the T predictions of a window (conservation), ln K when uniform."""
    return entropy(weights) / predictions
