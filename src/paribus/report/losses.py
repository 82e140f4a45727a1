"""Records of `loss` and `bayes` evaluations -> frames for charts and tables. Standard errors become 95 % limits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

NORMAL_95 = 1.959963984540054  # standard errors from a mean to its 95 % limits
Record = Mapping[str, Any]


def by_position(records: Mapping[Any, Record], label: str = "run") -> pl.DataFrame:
    """(label, position, loss, low, high): the mean loss of each position, from 1, over all windows of each record."""
    frames = [
        _estimates(record["by_position"]).with_columns(pl.lit(key).alias(label)) for key, record in records.items()
    ]
    frames = [frame.with_columns(position=pl.int_range(1, pl.len() + 1)) for frame in frames]
    return pl.concat(frames).select(label, "position", "loss", "low", "high").drop_nulls("loss")


def in_log_bins(frame: pl.DataFrame, ratio: float = 1.15) -> pl.DataFrame:
    """(..., position, loss) -> each curve's mean over bins of positions, each bin `ratio` times as long as the one before.

    A bin holds one position at least, so that the first few stay as they are; it stands at its ends' geometric mean."""
    position_N = frame["position"].to_numpy()
    starts = [1]
    while starts[-1] <= position_N.max():
        starts.append(max(starts[-1] + 1, math.ceil(starts[-1] * ratio)))
    curve = [name for name in frame.columns if name not in ("position", "loss")]
    binned = frame.with_columns(bin=pl.Series(np.searchsorted(starts, position_N, side="right")))
    at = (pl.col("position").min() * pl.col("position").max()).sqrt().round(1)
    means = binned.group_by(*curve, "bin", maintain_order=True).agg(at.alias("position"), pl.col("loss").mean())
    return means.drop("bin")


def by_category(records: Mapping[Any, Record], label: str = "run") -> pl.DataFrame:
    """(label, category, windows, loss, low, high, perplexity, bits_per_byte), one row a record and category."""
    frames = []
    for key, record in records.items():
        part = record["by_category"]
        bits = part["bits_per_byte"] or [None] * len(record["categories"])
        frame = _estimates(part).with_columns(
            pl.lit(key).alias(label),
            pl.Series("category", record["categories"], pl.String),
            pl.Series("windows", part["count"], pl.Int64),
            pl.Series("perplexity", part["perplexity"], pl.Float64),
            pl.Series("bits_per_byte", bits, pl.Float64),
        )
        frames.append(frame)
    return pl.concat(frames).select(label, "category", "windows", "loss", "low", "high", "perplexity", "bits_per_byte")


def matrix(records: Sequence[Record], max_positions: int = 128) -> pl.DataFrame:
    """(category, position, loss): every prediction of all records pooled; where windows are longer than `max_positions`,
    neighbouring positions are pooled too, and `position` is the first of them."""
    categories = list(dict.fromkeys(name for record in records for name in record["categories"]))
    length = max(len(record["by_position"]["mean"]) for record in records)
    count_CT, sum_CT = np.zeros((2, len(categories), length))
    for record in records:
        rows = [categories.index(name) for name in record["categories"]]
        columns = len(record["by_position"]["mean"])
        count_CT[rows, :columns] += np.array(record["matrix"]["count"])
        sum_CT[rows, :columns] += np.array(record["matrix"]["sum"])
    starts = np.arange(0, length, -(-length // max_positions))
    count_CS, sum_CS = (np.add.reduceat(values, starts, axis=1) for values in (count_CT, sum_CT))
    c, s = np.nonzero(count_CS)
    return pl.DataFrame(
        {"category": np.array(categories)[c], "position": starts[s] + 1, "loss": sum_CS[c, s] / count_CS[c, s]}
    )


def divergence(records: Mapping[Any, Record], label: str = "run") -> pl.DataFrame:
    """(label, position, kl, low, high) of `bayes` records: what each position loses against Bayes."""
    parts = {key: {"mean": r["kl"]["by_position"], "error": r["kl"]["error"]} for key, r in records.items()}
    return by_position({key: {"by_position": part} for key, part in parts.items()}, label).rename({"loss": "kl"})


def against_bayes(records: Mapping[Any, Record], label: str = "run") -> pl.DataFrame:
    """(label, kind, position, loss) of `bayes` records; kind: model, Bayes."""
    frames = [
        pl.DataFrame(
            {"kind": kind, "position": range(1, len(r[part]["by_position"]) + 1), "loss": r[part]["by_position"]}
        ).with_columns(pl.lit(key).alias(label))
        for key, r in records.items()
        for kind, part in (("model", "loss"), ("Bayes", "bayes_loss"))
    ]
    return pl.concat(frames).select(label, "kind", "position", "loss")


def _estimates(part: Record) -> pl.DataFrame:
    """`mean` and `error`, lists with null where there is none, as loss, low and high."""
    frame = pl.DataFrame(
        {"loss": part["mean"], "error": part["error"]}, schema={"loss": pl.Float64, "error": pl.Float64}
    )
    half = NORMAL_95 * pl.col("error").fill_null(0.0)
    return frame.select("loss", low=pl.col("loss") - half, high=pl.col("loss") + half)
