"""What a table shows, sorts by and copies."""

import math

import polars as pl
import pytest

from paribus.report.blocks import Column, Table
from paribus.report.cells import duration, heads, interval, number, rows


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1234567, "", "1,234,567"),
        (3.14159, ".2f", "3.14"),
        (-0.25, "+.3f", "−0.250"),
        (-0.0001, ".2f", "0.00"),
        (math.nan, ".3f", "NaN"),
        (math.inf, "", "∞"),
        (2.5e-7, "", "2.5e−07"),
    ],
)
def test_numbers_are_set_as_in_print(value: float, form: str, text: str):
    assert number(value, form) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (59.6, "59.6 s"), (245, "4 min 05 s"), (3599.7, "1 h 00 min"), (12000, "3 h 20 min")],
)
def test_durations_carry_over(seconds: float, text: str):
    assert duration(seconds) == text


def test_a_limit_that_the_data_cannot_give_leaves_no_interval():
    assert interval(-0.129, 0.745, "+.2f") == "[−0.13, +0.74]"
    assert interval(None, 1.0) == interval(0.5, None) == ""


def test_a_cell_keeps_the_full_value_behind_the_rounded_one():
    frame = pl.DataFrame(
        {"loss": [3.123456789, None], "low": [3.1, None], "high": [3.2, None], "state": ["done", "failed"]}
    )
    table = Table(frame, [Column("loss", "Loss", ".2f", ("low", "high")), Column("state", kind="badge")])
    first, second = rows(table)
    assert first[0]._replace(tone="") == ("3.12", "3.123456789", "[3.10, 3.20]", "")
    assert second[0] == ("–", "", "", "")
    assert [first[1].tone, second[1].tone] == ["good", "bad"]
    assert [head.is_numeric for head in heads(table)] == [True, False]


def test_a_table_without_columns_shows_all_of_the_frame():
    frame = pl.DataFrame({"a": [1], "b": ["x"]})
    assert [head.title for head in heads(Table(frame))] == ["a", "b"]
