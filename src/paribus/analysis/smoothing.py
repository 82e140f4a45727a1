"""Smooth curves: moving averages whose window is a number of steps, or of samples; any function of the run's row."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from paribus.analysis.axes import BATCH_SIZE, with_facts

Floats: TypeAlias = NDArray[np.float64]
Smoother: TypeAlias = Callable[[Floats], Floats]  # (T,) losses of every step -> (T,)
RunSmoother: TypeAlias = Callable[[Mapping[str, Any]], Smoother]  # the run's row -> how its curve is smoothed


def moving_average(values: ArrayLike, window: int) -> Floats:
    """The mean over (window - 1) // 2 points on either side of each point, (T,) -> (T,).

    Towards the ends both sides shrink alike, so that a straight line stays one and the ends stay where they are. What is
    not finite makes those means not finite whose window it is in, and no others."""
    values_T = np.asarray(values, np.float64)
    half = min((window - 1) // 2, (len(values_T) - 1) // 2)
    if half < 1:
        return values_T.copy()
    counts = np.arange(1, 2 * half, 2)
    head = np.cumsum(values_T[: 2 * half - 1])[::2] / counts
    tail = (np.cumsum(values_T[: -2 * half : -1])[::2] / counts)[::-1]
    return np.concatenate([head, sliding_window_view(values_T, 2 * half + 1).mean(1), tail])


def over_steps(window: int) -> RunSmoother:
    """A moving average over so many steps, the same for every run."""
    return lambda run: lambda values_T: moving_average(values_T, window)


def over_samples(num_samples: int) -> RunSmoother:
    """A moving average over so many samples: num_samples / B steps, so that runs of all batch sizes average over the same
    stretch of data."""
    return lambda run: lambda values_T: moving_average(values_T, max(1, num_samples // run[BATCH_SIZE]))


def smoothed(losses: pl.DataFrame, runs: pl.DataFrame, smoother: RunSmoother) -> pl.DataFrame:
    """Add `smooth` to the losses of every run of the table, in the order of steps.

    smoother: from the run's row (a mapping of all its columns) to a function of its losses."""
    curves = with_facts(losses, runs).sort("id", "step").partition_by("id", as_dict=True)
    parts = [
        curve.with_columns(smooth=smoother(run)(curve["loss"].cast(pl.Float64).to_numpy()))
        for run in runs.iter_rows(named=True)
        if (curve := curves.get((run["id"],))) is not None
    ]
    return pl.concat(parts) if parts else losses.clear().with_columns(smooth=pl.lit(None, pl.Float64))
