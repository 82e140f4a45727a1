"""Tables of final losses: replicate seeds averaged, laid out by batch size and eta, and where divergence begins."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from paribus.analysis.axes import BATCH_SIZE, ETA
from paribus.analysis.settings import varying
from paribus.errors import DataError
from paribus.evals.statistics import over_seeds

LABELS = ("stable", "catapult", "risen", "diverged")  # from best to worst


def finals(
    runs: pl.DataFrame, by: Sequence[str] = (BATCH_SIZE, ETA), value: str = "final/loss", facts: Sequence[str] = ()
) -> pl.DataFrame:
    """One row for each combination of `by`: `loss` over replicate seeds with its limits, and the worst of their labels.

    Columns: `by`; loss, loss_low, loss_high: the mean of `value` and Student's 95 % limits of it (null from one seed; all
    three null where a seed diverged, since the mean of the others is another quantity); seeds; diverged, how many of
    them; label, the worst one; `facts` of the first seed. Sorted by `by`.
    Runs that have neither diverged nor a value are unfinished and left out.
    Raises DataError where runs of one row differ by more than their seeds."""
    ended = runs.filter((pl.col("label") == "diverged") | pl.col(value).is_not_null())
    rows = [
        dict(zip(by, key, strict=True)) | _final(group, value) | {fact: group[fact][0] for fact in facts}
        for key, group in ended.sort(*by).group_by(*by, maintain_order=True)
        if _are_replicates(group, by)
    ]
    measured = dict.fromkeys(("loss", "loss_low", "loss_high"), pl.Float64()) | {
        "seeds": pl.Int64(),
        "diverged": pl.Int64(),
        "label": pl.String(),
    }
    kept = {name: runs.schema[name] for name in (*by, *facts)}
    return pl.DataFrame(rows, schema=kept | measured).select(*by, *measured, *facts)


def laid_out(finals: pl.DataFrame, value: str = "loss") -> pl.DataFrame:
    """A row a log2 B, a column a log2 eta (its exponent as the name), ascending; null where nothing ran or it diverged."""
    logs = finals.select(log2_B=pl.col(BATCH_SIZE).log(2), log2_eta=pl.col(ETA).log(2), value=pl.col(value))
    wide = logs.sort("log2_eta").with_columns(pl.col("log2_eta").map_elements(lambda e: f"{e:.4g}", pl.String))
    return wide.pivot("log2_eta", index="log2_B", values="value").sort("log2_B")


def first_divergence(finals: pl.DataFrame, x: str = BATCH_SIZE, y: str = ETA) -> pl.DataFrame:
    """(x, last_below, first_diverged): of each column x the least y at which a seed diverged, and the next y that ran below.

    `last_below` is null where already the least y diverged. Columns without a divergence have no row."""
    diverged = pl.col("label") == "diverged"
    first = finals.filter(diverged).group_by(x).agg(first_diverged=pl.col(y).min())
    below = finals.join(first, on=x).filter(pl.col(y) < pl.col("first_diverged"))
    last = below.group_by(x).agg(last_below=pl.col(y).max())
    return first.join(last, on=x, how="left").select(x, "last_below", "first_diverged").sort(x)


def _final(group: pl.DataFrame, value: str) -> dict[str, Any]:
    """What one row says of its replicates."""
    labels = group["label"].to_list()
    diverged = labels.count("diverged")
    mean = over_seeds([math.nan] if diverged else group[value].to_list())
    worst = max(labels, key=LABELS.index)
    return mean.columns("loss") | {"seeds": len(group), "diverged": diverged, "label": worst}


def _are_replicates(group: pl.DataFrame, by: Sequence[str]) -> bool:
    """True; raises DataError where more than seeds differs."""
    different = varying(group, by) if len(group) > 1 else []
    if different:
        values = ", ".join(map(str, group[different[0]].unique(maintain_order=True).to_list()[:4]))
        at = ", ".join(f"{name} = {group[name][0]}" for name in by)
        raise DataError(
            f"{at}: runs differ in {different[0]} ({values}), so they are no replicates; expected seeds alone to differ: "
            f"choose runs of one value, or make one table for each"
        )
    return True
