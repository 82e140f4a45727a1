"""Values of a frame -> what a table shows, sorts by and copies."""

import math
from typing import Any, NamedTuple

from paribus.report.blocks import Column, Table

ABSENT = "–"
TONES = {
    "good": ("holds", "done", "determined"),
    "bad": ("fails", "failed", "diverged", "unreadable"),
    "open": ("inconclusive", "running", "stopped", "interrupted", "unknown", "not determined"),
}


class Cell(NamedTuple):
    text: str
    raw: str  # the value in full precision: what is sorted and copied
    note: str = ""  # the interval
    tone: str = ""  # of a badge: good, bad, open


class Head(NamedTuple):
    title: str
    is_numeric: bool
    kind: str


def heads(table: Table) -> list[Head]:
    return [
        Head(column.title or column.field, table.frame[column.field].dtype.is_numeric(), column.kind)
        for column in columns(table)
    ]


def rows(table: Table) -> list[list[Cell]]:
    shown = columns(table)
    return [[_cell(row, column) for column in shown] for row in table.frame.iter_rows(named=True)]


def columns(table: Table) -> list[Column]:
    chosen = table.columns or table.frame.columns
    return [Column(column) if isinstance(column, str) else column for column in chosen]


def number(value: float, form: str = "") -> str:
    """A number as print sets it: thousands separated, a true minus sign, no `-0`."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    text = format(value, form or ("," if isinstance(value, int) else ".4g"))
    if text.startswith("-") and not text.strip("-0.,%e"):
        text = text[1:]
    return text.replace("inf", "∞").replace("-", "−")


def interval(low: float | None, high: float | None, form: str = "") -> str:
    """[low, high]; empty where the data gave no limits."""
    return "" if low is None or high is None else f"[{number(low, form)}, {number(high, form)}]"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def tone(state: str) -> str:
    return next((tone for tone, states in TONES.items() if state in states), "open")


def _cell(row: dict[str, Any], column: Column) -> Cell:
    value = row[column.field]
    if value is None:
        return Cell(ABSENT, "")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(value).lower())
    if not isinstance(value, int | float):
        text = str(value)
        return Cell(text, text, tone=tone(text) if column.kind == "badge" else "")
    if column.kind == "seconds":
        return Cell(duration(value), repr(value))
    note = ""
    if column.interval:
        low, high = (row[field] for field in column.interval)
        note = interval(low, high, column.format)
    return Cell(number(value, column.format), repr(value), note)
