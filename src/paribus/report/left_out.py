"""What a plot leaves out of the runs that it was given, and why: a plot that shows less than all says so."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import polars as pl

from paribus.analysis.final import LABELS
from paribus.directories import UNREADABLE
from paribus.report.tables import of_grid

_OTHER_ENGINE, _UNFINISHED, _OTHER_SETTINGS = "not of the grid engine", "not finished", "of other settings"
_ORDER = (*LABELS, _OTHER_SETTINGS, _UNFINISHED, _OTHER_ENGINE, UNREADABLE)


def left_out(runs: pl.DataFrame, drawn: Collection[str]) -> str:
    """`8 diverged, 12 of other settings`: of the runs whose ids are not among those drawn; empty where all are.

    A run is left out for what it ended as where no run that ended so is drawn, for its settings else: the plot needs
    several values of its axes, or shows one temperature, or the first panels."""
    shown = runs.filter(pl.col("id").is_in(list(drawn)))
    missing = runs.filter(~pl.col("id").is_in(list(drawn))).with_columns(is_grid=of_grid(runs))
    labels = set(shown["label"]) if "label" in runs.columns else set()
    counts = Counter(_reason(row, labels) for row in missing.iter_rows(named=True))
    return ", ".join(f"{counts[reason]:,} {reason}" for reason in _ORDER if counts[reason])


def _reason(row: dict[str, Any], labels: Collection[str]) -> str:
    if row["state"] == UNREADABLE:
        return UNREADABLE
    if not row["is_grid"]:
        return _OTHER_ENGINE
    label = row.get("label")
    if label is None:
        return _UNFINISHED
    return _OTHER_SETTINGS if label in labels else str(label)
