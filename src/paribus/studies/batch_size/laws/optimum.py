"""The best eta of some runs and the largest that trains, between those tried, in log2; nan where they do not show it."""

import math

import numpy as np
import polars as pl

from paribus.studies.batch_size.laws.settings import ETA, STABLE, log2

LOSS = "final/heldout_loss"
_TRAINED = 0.95  # of the initial loss: what a run must end below to have trained


def eta_star(runs: pl.DataFrame) -> float:
    """log2 of the eta of the lowest held-out loss: the vertex of the parabola of log loss in log eta around the lowest.

    runs: equal but for eta. Only stable ones count. Where the next eta up was unstable, there is no parabola and the best
    eta itself is the answer. nan: the lowest lies at an end of what was tried, so the optimum may lie beyond."""
    tried = runs.sort(ETA)
    stable = tried.filter(STABLE & pl.col(LOSS).is_finite() & (pl.col(LOSS) > 0))
    if len(stable) < 3:
        return math.nan
    x, y = log2(stable[ETA].to_list()), np.log(stable[LOSS].to_numpy())
    best = int(y.argmin())
    if best == 0:
        return math.nan
    above = tried.filter(pl.col(ETA) > stable[ETA][best])
    if not len(above):
        return math.nan
    if best == len(x) - 1 or x[best + 1] > log2([above[ETA][0]])[0]:
        return float(x[best])
    return _vertex(x[best - 1 : best + 2], y[best - 1 : best + 2])


def _vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Where the parabola through three points, of which the middle one is lowest, is lowest."""
    left, right = x[1] - x[0], x[2] - x[1]
    up_left, up_right = y[0] - y[1], y[2] - y[1]
    curved = up_left * right + up_right * left
    return float(x[1] + (up_left * right**2 - up_right * left**2) / (2 * curved)) if curved > 0 else float(x[1])


def loss_star(runs: pl.DataFrame) -> float:
    """The lowest held-out loss among the stable runs; nan without any."""
    stable = runs.filter(STABLE & pl.col(LOSS).is_finite())
    return float(stable[LOSS].min()) if len(stable) else math.nan  # type: ignore[arg-type]


def eta_max(runs: pl.DataFrame) -> float:
    """log2 of the border of training, the middle of `border`."""
    low, high = border(runs)
    return (low + high) / 2


def border(runs: pl.DataFrame) -> tuple[float, float]:
    """log2 of the last eta that trains and of the first above the best that does not; the border lies between.

    runs: equal but for eta. To train is to end below .95 of the initial held-out loss: at the border of a deep rich network
    its units die, and such a run ends at its initial loss, on this side of it or that by rounding. With that margin the
    slope in gamma at L = 4 scatters by .02 over seeds, without it by .14. nan: none trains, or none above fails to."""
    trains = STABLE & (pl.col(LOSS) < _TRAINED * pl.col("initial/loss"))
    trained = runs.filter(trains)
    if not len(trained):
        return math.nan, math.nan
    best = trained.sort(LOSS)[ETA][0]
    beyond = runs.filter(trains.not_().fill_null(True) & (pl.col(ETA) > best))[ETA].min()
    if beyond is None:
        return math.nan, math.nan
    last = trained.filter(pl.col(ETA) < beyond)[ETA].max()
    low, high = log2([last, beyond])  # type: ignore[list-item]
    return float(low), float(high)
