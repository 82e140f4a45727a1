"""Oracles: the mean of a slice, conservation of straight lines, and the variance of a mean."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paribus.analysis import noise
from paribus.analysis.smoothing import moving_average, over_samples, over_steps, smoothed
from sweep_tables import sweep

TABLES = sweep(batch_sizes=(1, 16), etas=(2.0**-6, 2.0**-4), steps=100)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 80))
def test_each_value_is_the_mean_of_its_slice(values: list[float], window: int):
    average = moving_average(values, window)
    for at, value in enumerate(average):
        half = min((window - 1) // 2, at, len(values) - 1 - at)
        assert value == pytest.approx(np.mean(values[at - half : at + half + 1]), rel=1e-9, abs=1e-6)


@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(1, 50), st.integers(1, 60))
def test_a_straight_line_stays_one(slope: float, offset: float, length: int, window: int):
    line = offset + slope * np.arange(length)
    np.testing.assert_allclose(moving_average(line, window), line, atol=1e-9)


def test_what_is_not_finite_spoils_its_windows_alone():
    values = np.ones(20)
    values[12] = np.inf
    spoilt = ~np.isfinite(moving_average(values, 5))
    assert np.flatnonzero(spoilt).tolist() == [10, 11, 12, 13, 14]


def test_a_window_of_samples_is_shorter_for_large_batches():
    smooth = smoothed(TABLES.losses, TABLES.runs, over_samples(48))
    for run in TABLES.runs.iter_rows(named=True):
        losses = TABLES.losses.filter(pl.col("id") == run["id"])["loss"]
        expected = moving_average(losses, 48 // run["train.batch_size"])
        assert smooth.filter(pl.col("id") == run["id"])["smooth"].to_list() == expected.tolist()
    assert len(smooth) == len(TABLES.losses)


def test_a_smoother_may_be_any_function_of_the_run():
    smooth = smoothed(TABLES.losses, TABLES.runs, lambda run: lambda values: values * run["train.eta"])
    joined = smooth.join(TABLES.runs, on="id")
    assert (joined["smooth"] == joined["loss"] * joined["train.eta"]).all()
    empty = smoothed(TABLES.losses, TABLES.runs.clear(), over_steps(3))
    assert empty.columns == [*TABLES.losses.columns, "smooth"]
    assert empty.is_empty()


def test_curves_are_smoothed_in_the_order_of_steps():
    shuffled = TABLES.losses.sample(fraction=1.0, shuffle=True, seed=0)
    expected, found = (smoothed(losses, TABLES.runs, over_steps(9)) for losses in (TABLES.losses, shuffled))
    assert expected.equals(found)


def test_noise_is_what_is_left_and_its_scale_that_of_white_noise():
    """The residual of a mean over n points has variance s^2 (1 - 1/n); 40,000 of them: 1 % is 2 standard errors."""
    n, window, deviation = 40_000, 9, 0.3
    values = 5 + np.random.default_rng(0).normal(0, deviation, n)
    losses = pl.DataFrame({"id": "a", "step": range(n), "loss": values})
    extracted = noise.extracted(losses, pl.DataFrame({"id": ["a"]}), over_steps(window))
    assert (extracted["noise"] + extracted["smooth"] - extracted["loss"]).abs().max() < 1e-12
    row = noise.scale(extracted).row(0, named=True)
    assert row["noise"] == pytest.approx(deviation * (1 - 1 / window) ** 0.5, rel=0.01)
    assert row["relative_noise"] == pytest.approx(row["noise"] / 5, rel=0.02)


def test_a_diverged_end_does_not_spoil_the_scale():
    losses = pl.DataFrame({"id": "a", "step": range(6), "loss": [1.0, 2.0, 1.0, 2.0, 1.0, float("inf")]})
    row = noise.scale(noise.extracted(losses, pl.DataFrame({"id": ["a"]}), over_steps(3))).row(0, named=True)
    assert 0 < row["noise"] < 1
