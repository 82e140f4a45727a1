"""Oracles: rational arithmetic for temperatures, plain loops for cut-offs, NumPy for spacing."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paribus.analysis.axes import with_axes, with_facts
from paribus.analysis.filters import cut, drop, keep, subsampled
from sweep_tables import sweep

GRID = pl.DataFrame(
    [
        {"id": f"{a}/{b}", "train.eta": 2.0**a, "train.batch_size": 2**b, "a": a, "b": b}
        for a in range(-12, 13)
        for b in range(17)
    ]
)
TABLES = sweep(steps=50)


@pytest.mark.parametrize("exponent", range(-28, 13))
def test_a_temperature_finds_its_diagonal_of_the_grid_and_nothing_beside_it(exponent: int):
    found = keep(GRID, temperature=[2.0**exponent])
    assert set(found["id"]) == {f"{a}/{b}" for a in range(-12, 13) for b in range(17) if a - b == exponent}
    assert set(drop(GRID, temperature=[2.0**exponent])["id"]) == set(GRID["id"]) - set(found["id"])


@given(
    st.floats(1e-12, 1e12), st.integers(0, 20), st.sampled_from([Fraction(1), Fraction(1, 2), 1 + Fraction(1, 2**52)])
)
def test_temperatures_are_compared_exactly(eta: float, log2_B: int, factor: Fraction):
    """B a power of two: the quotient is exact, so a neighbour one bit away is another temperature."""
    runs = pl.DataFrame({"id": ["a"], "train.eta": [eta], "train.batch_size": [2**log2_B]})
    asked = float(Fraction(eta) / 2**log2_B * factor)
    is_same = Fraction(asked) == Fraction(eta) / 2**log2_B
    assert len(keep(runs, temperature=[asked])) == is_same
    assert len(drop(runs, temperature=[asked])) == 1 - is_same


def test_what_python_prints_for_a_temperature_finds_the_run():
    runs = pl.DataFrame({"id": ["a"], "train.eta": [0.1], "train.batch_size": [3]})
    assert len(keep(runs, temperature=[float(repr(0.1 / 3))])) == 1


def test_keep_needs_every_quantity_and_drop_is_its_complement():
    kept = keep(GRID, batch_size=[1, 4], eta=[0.5, 2.0, 3.0])
    assert set(kept["id"]) == {"-1/0", "-1/2", "1/0", "1/2"}
    assert len(drop(GRID, batch_size=[1, 4], eta=[0.5, 2.0, 3.0])) == len(GRID) - 4
    assert keep(GRID).equals(GRID)
    assert drop(GRID).is_empty()
    assert keep(GRID, eta=[]).is_empty()


def test_cut_offs_are_those_of_a_plain_loop():
    run = TABLES.runs.filter(pl.col("label") == "catapult").row(1, named=True)
    of_run = TABLES.losses.filter(pl.col("id") == run["id"])
    for limits in ({"max_step": 7}, {"max_samples": 40}, {"max_loss": 3.0}, {"max_step": 40, "max_loss": 1.2}):
        expected = []
        for step, loss in of_run.select("step", "loss").iter_rows():
            if loss > limits.get("max_loss", np.inf):
                break
            if step <= limits.get("max_step", 10**9) and step * run["train.batch_size"] <= limits.get(
                "max_samples", 10**9
            ):
                expected.append(step)
        kept = cut(TABLES.losses, TABLES.runs, **limits).filter(pl.col("id") == run["id"])
        assert 0 < len(expected) < len(of_run)
        assert kept["step"].to_list() == expected
        assert kept.columns == TABLES.losses.columns


def test_a_curve_ends_at_a_loss_that_is_not_a_number():
    losses = pl.DataFrame({"id": "a", "step": range(4), "loss": [1.0, 2.0, float("nan"), 1.0]})
    runs = pl.DataFrame({"id": ["a"], "train.eta": [1.0], "train.batch_size": [1]})
    assert cut(losses, runs, max_loss=10.0)["step"].to_list() == [0, 1]


@given(st.integers(2, 400), st.integers(2, 60), st.sampled_from(["step", "log_step"]))
def test_a_thinned_curve_keeps_its_ends_and_is_evenly_spaced(length: int, most: int, spacing: str):
    points = pl.DataFrame({"id": "a", "step": range(length), "loss": np.linspace(1, 0, length)})
    kept = subsampled(points, most, spacing)["step"].to_numpy()
    assert len(kept) <= most
    assert (kept[0], kept[-1]) == (0, length - 1)
    if length <= most:
        assert len(kept) == length
        return
    at = np.log1p(np.arange(length)) if spacing == "log_step" else np.arange(length)
    nearest = [int(np.abs(at - wanted).argmin()) for wanted in np.linspace(at[0], at[-1], most)]
    assert np.abs(at[kept][:, None] - at[nearest][None]).min(0).max() < 1e-9, "each wanted place has its nearest point"


def test_curves_are_thinned_each_on_its_own():
    kept = subsampled(TABLES.losses, 6)
    lengths = kept.group_by("id").len()["len"]
    assert set(lengths.to_list()) == {6}
    assert kept.join(TABLES.losses, on=["id", "step", "loss"]).height == len(kept)
    with pytest.raises(ValueError, match="most=1"):
        subsampled(TABLES.losses, 1)


def test_axes_count_what_the_parameters_had_been_trained_on():
    losses = pl.DataFrame({"id": ["b", "a", "a", "gone"], "step": [3, 0, 5, 1], "loss": 1.0})
    runs = pl.DataFrame({"id": ["a", "b"], "train.eta": [0.5, 2.0], "train.batch_size": [8, 2], "k": ["x", "y"]})
    axes = with_axes(losses, runs, "k")
    assert axes["samples"].to_list() == [6, 0, 40]
    assert axes["eta_steps"].to_list() == [6.0, 0.0, 2.5]
    assert axes["temperature"].to_list() == [1.0, 0.0625, 0.0625]
    assert axes["k"].to_list() == ["y", "x", "x"]
    assert with_facts(losses, runs.filter(pl.col("id") == "a"), "k")["id"].to_list() == ["a", "a"]
