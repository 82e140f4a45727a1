"""The noise of a loss curve: what is left of it about its smooth course."""

import polars as pl

from paribus.analysis.smoothing import RunSmoother, smoothed


def extracted(losses: pl.DataFrame, runs: pl.DataFrame, smoother: RunSmoother) -> pl.DataFrame:
    """Add `smooth` and `noise` = loss - smooth to the losses of every run."""
    return smoothed(losses, runs, smoother).with_columns(noise=pl.col("loss") - pl.col("smooth"))


def scale(noise: pl.DataFrame) -> pl.DataFrame:
    """(id, noise, relative_noise): root mean squares of noise and of noise / smooth over the points of `extracted`.

    The average takes part in its own noise: of white noise of deviation s a mean over n points leaves s sqrt(1 - 1/n).
    Points that are not finite are left out; a run without another has nulls."""
    finite = pl.col("noise").is_finite() & pl.col("smooth").is_finite()
    ratio = pl.col("noise") / pl.col("smooth")

    def rms(values: pl.Expr) -> pl.Expr:
        return values.filter(finite).pow(2).mean().sqrt()

    return noise.group_by("id", maintain_order=True).agg(noise=rms(pl.col("noise")), relative_noise=rms(ratio))
