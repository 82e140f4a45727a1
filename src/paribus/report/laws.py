"""Laws as a table of a report: estimate with its interval, theory, and the verdict as a badge."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from paribus.report.blocks import Column, Table
from paribus.report.cells import number

_NUMBERS = ("estimate", "low", "high", "theory")


def laws_table(laws: Sequence[Mapping[str, Any]], caption: str = "") -> Table:
    """One row a law: name, quantity, estimate, low, high, theory, bounds (from, to), verdict, evidence.

    Numbers that are nan were not determined and are shown as such; an infinite bound is none."""
    rows = [
        {key: law[key] for key in ("name", "quantity", "verdict", "evidence")}
        | {key: None if math.isnan(law[key]) else float(law[key]) for key in _NUMBERS}
        | {"bounds": _bounds(*law["bounds"])}
        for law in laws
    ]
    schema = dict.fromkeys(("name", "quantity", "verdict", "evidence"), pl.String()) | {"bounds": pl.String()}
    frame = pl.DataFrame(rows, schema | dict.fromkeys(_NUMBERS, pl.Float64()))
    columns = [
        Column("name", "Law"),
        Column("verdict", "Verdict", kind="badge"),
        Column("quantity", "Measured"),
        Column("estimate", "Estimate [95 %]", ".3g", ("low", "high")),
        Column("theory", "Theory", ".3g"),
        Column("bounds", "Holds within"),
        Column("evidence", "Evidence"),
    ]
    return Table(frame, columns, caption)


def _bounds(low: float, high: float) -> str:
    if math.isinf(low):
        return f"≤ {number(high)}"
    return f"≥ {number(low)}" if math.isinf(high) else f"{number(low)} to {number(high)}"
