"""Which runs, and which of their points: filters by batch size, eta and temperature, cut-offs, sub-sampling."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paribus.analysis.axes import BATCH_SIZE, ETA, temperature, with_axes


def keep(
    runs: pl.DataFrame,
    batch_size: Sequence[int] | None = None,
    eta: Sequence[float] | None = None,
    temperature: Sequence[float] | None = None,
) -> pl.DataFrame:
    """The runs that have one of the values of each quantity given; none given: all.

    Values are compared as floats, without a tolerance. A temperature is that of a run where `eta / B == temperature`: for
    powers of two the quotient is exact, so that neighbours are told apart as far down as floats go; for others it is the
    number that Python prints for it."""
    return runs.filter(_has(batch_size, eta, temperature))


def drop(
    runs: pl.DataFrame,
    batch_size: Sequence[int] | None = None,
    eta: Sequence[float] | None = None,
    temperature: Sequence[float] | None = None,
) -> pl.DataFrame:
    """The runs that `keep` leaves out: those that lack the values of one quantity. None given: none."""
    return runs.filter(~_has(batch_size, eta, temperature))


def cut(
    points: pl.DataFrame,
    runs: pl.DataFrame,
    max_step: int | None = None,
    max_samples: int | None = None,
    max_loss: float | None = None,
) -> pl.DataFrame:
    """The start of each curve of a long table: up to a step, to a number of samples seen (both inclusive), and before the
    first point whose loss is above `max_loss` or not a number."""
    kept = with_axes(points, runs).sort("id", "step", maintain_order=True)
    if max_step is not None:
        kept = kept.filter(pl.col("step") <= max_step)
    if max_samples is not None:
        kept = kept.filter(pl.col("samples") <= max_samples)
    if max_loss is not None:
        is_above = (pl.col("loss") > max_loss) | pl.col("loss").is_nan()
        kept = kept.filter(is_above.cast(pl.Int64).cum_sum().over("id") == 0)
    return kept.select(points.columns)


def subsampled(
    points: pl.DataFrame, most: int, spacing: Literal["step", "log_step"] = "step", by: Sequence[str] = ("id",)
) -> pl.DataFrame:
    """At most so many points of each curve, evenly spaced in step or in log(1 + step); the first and the last stay.

    Points are chosen, never averaged: smooth first. Curves of no more than `most` points stay as they are."""
    if most < 2:
        raise ValueError(f"a curve keeps its two ends, found most={most}")
    curves = points.sort(*by, "step").partition_by(*by, maintain_order=True)
    return pl.concat([curve[_spaced(curve["step"].to_numpy(), most, spacing)] for curve in curves] or [points])


def _has(batch_size: Sequence[int] | None, eta: Sequence[float] | None, ratio: Sequence[float] | None) -> pl.Expr:
    given = ((pl.col(BATCH_SIZE), batch_size), (pl.col(ETA), eta), (temperature(), ratio))
    return pl.all_horizontal(
        pl.lit(True),
        *(
            column.cast(pl.Float64).is_in([float(value) for value in values])
            for column, values in given
            if values is not None
        ),
    )


def _spaced(step_T: NDArray[np.int64], most: int, spacing: Literal["step", "log_step"]) -> NDArray[np.int64]:
    """Indices of the points nearest to `most` evenly spaced positions. step_T is ascending."""
    if len(step_T) <= most:
        return np.arange(len(step_T))
    at_T = np.log1p(step_T) if spacing == "log_step" else step_T.astype(np.float64)
    wanted = np.linspace(at_T[0], at_T[-1], most)
    after = np.clip(np.searchsorted(at_T, wanted), 1, len(at_T) - 1)
    return np.unique(np.where(wanted - at_T[after - 1] <= at_T[after] - wanted, after - 1, after))
