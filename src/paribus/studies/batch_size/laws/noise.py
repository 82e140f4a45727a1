"""The scale of the gradient's noise: an estimate from batches of two sizes, against what every sample's gradient gives."""

import polars as pl

from paribus.studies.batch_size.laws.law import Law, judged, over_replicates, resting_on
from paribus.studies.batch_size.laws.settings import alike, seeds, told


def noise_scale(runs: pl.DataFrame, evaluations: pl.DataFrame) -> list[Law]:
    """tr(Sigma) / |G|^2 (McCandlish et al. 2018, appendix A.1): the two-batch estimator over the exact value, mean over
    the steps at which both were taken."""
    laws = []
    for group in alike(runs):
        both = _ratios(evaluations, group)
        if not len(both):
            continue
        rows = [[float(one["ratio"].mean())] for one in seeds(both)]  # type: ignore[arg-type]
        ratio = over_replicates(rows, lambda mean: float(mean[0]))
        evidence = resting_on(rows, "steps", both["step"].n_unique())
        quantity = f"two-batch estimate / exact value, {told(group)}"
        laws.append(judged("noise scale", quantity, ratio, 1.0, (0.85, 1.15), evidence))
    return laws


def _ratios(evaluations: pl.DataFrame, group: pl.DataFrame) -> pl.DataFrame:
    wide = [
        evaluations.filter(pl.col("metric") == metric).select("id", "step", pl.col("value").alias(metric))
        for metric in ("noise_scale", "noise_scale_exact")
    ]
    found = wide[0].join(wide[1], on=["id", "step"])
    found = found.with_columns(ratio=pl.col("noise_scale") / pl.col("noise_scale_exact"))
    return group.drop("step").join(found.select("id", "step", "ratio"), on="id", maintain_order="left")
