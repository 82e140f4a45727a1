"""Places of copies: conservation, uniformity, independence of the other experiments, and exact feasibility."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paribus.data.permutation import nth_key
from paribus.insertions.packing import Bins, Copies, Intervals, place

NONE = np.empty(0, np.int64)


def everywhere(num_rows: int) -> list[Intervals]:
    return [Intervals(np.array([0]), np.array([num_rows]))]


def copies(lengths, num_rows: int, seed: int = 0, key=None) -> Copies:
    length = np.asarray(lengths, np.int64)
    zero = np.zeros(len(length), np.int64)
    key = nth_key(np.uint64(seed), np.arange(len(length))) if key is None else key
    return Copies(length, key, zero.astype(np.int32), zero, zero + num_rows)


def check(start, length, row_tokens: int, num_rows: int, fixed=()) -> None:
    """Every copy inside one row of the run, none over another."""
    assert (start >= 0).all()
    assert (start + length <= num_rows * row_tokens).all()
    assert (start // row_tokens == (start + length - 1) // row_tokens).all()
    spans = sorted([*zip(start.tolist(), (start + length).tolist(), strict=True), *fixed])
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))


@pytest.mark.parametrize("occupancy", [0.018, 0.5, 0.95, 0.99])
def test_copies_are_dropped_overlap_or_cross_rows(occupancy):
    length = np.random.default_rng(0).integers(20, 201, 10_000)
    rows = int(np.ceil(length.sum() / occupancy / 4096))
    found = place(copies(length, rows), everywhere(rows), Bins(rows, 4096, NONE, NONE), 0)
    check(found.start, length, 4096, rows)


def test_what_cannot_fit_is_counted():
    found = place(copies([64] * 12, 10), everywhere(10), Bins(10, 64, NONE, NONE), 0)
    assert (found.start < 0).sum() == 2


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=2, unique_by=lambda span: span[0]),
    st.integers(0, 3),
)
@example([2, 2, 3, 3, 5], 3, [(0, 1)], 0)  # best fit puts a 3 into the room of 4
@settings(max_examples=300, deadline=None)
def test_a_packing_that_exists_is_missed_or_one_that_does_not_is_claimed(lengths, num_rows, spans, seed):
    """Against all assignments: rows of 6 tokens, some cut by a fixed token."""
    fixed = sorted(row * 6 + offset for row, offset in spans if row < num_rows)
    rooms = []
    for row in range(num_rows):
        edges = [row * 6 - 1, *(cut for cut in fixed if cut // 6 == row), row * 6 + 6]
        rooms += [b - a - 1 for a, b in itertools.pairwise(edges) if b - a > 1]
    fits = any(
        all(
            sum(n for n, bin_ in zip(lengths, chosen, strict=True) if bin_ == room) <= size
            for room, size in enumerate(rooms)
        )
        for chosen in itertools.product(range(len(rooms)), repeat=len(lengths))
    )
    start = np.array(fixed, np.int64)
    bins = Bins(num_rows, 6, start, np.ones_like(start))
    found = place(copies(lengths, num_rows, seed), everywhere(num_rows), bins, seed)
    assert fits == bool((found.start >= 0).all())
    if fits:
        check(found.start, np.array(lengths), 6, num_rows, [(cut, cut + 1) for cut in fixed])


def is_uniform(counts) -> bool:
    """Chi-square at p > .001, by the cube root that is normal (Wilson & Hilferty 1931)."""
    expected, freedom = counts.mean(), len(counts) - 1
    ratio = ((counts - expected) ** 2 / expected).sum() / freedom
    return (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5 < 3.09


def test_rows_or_offsets_are_favoured():
    """100,000 copies of one token in 1,000 rows of 128, at 78 % occupancy: uniform over rows and over offsets."""
    found = place(copies(np.ones(100_000), 1000), everywhere(1000), Bins(1000, 128, NONE, NONE), 0)
    row, offset = np.divmod(found.start, 128)
    assert is_uniform(np.bincount(row, minlength=1000))
    assert is_uniform(np.bincount(offset, minlength=128))


def test_a_place_depends_on_who_else_is_placed():
    """Ten experiments of 5,000 items, two per cent of the stream each: without one of them 99 in 100 stay put."""
    length = np.random.default_rng(1).integers(20, 201, 50_000)
    rows = int(length.sum() / 0.05 / 4096)
    group = np.arange(50_000) // 5_000
    whole = copies(length, rows)
    before = place(whole, everywhere(rows), Bins(rows, 4096, NONE, NONE), 0).start
    for dropped in (0, 7):
        kept = group != dropped
        after = place(whole.take(kept), everywhere(rows), Bins(rows, 4096, NONE, NONE), 0).start
        assert (after == before[kept]).mean() >= 0.99


def test_the_choosy_are_left_without_room():
    """Copies for one row only and copies for any: the first must be served first, whatever their keys."""
    length = np.full(20, 16)
    one_row = Copies(
        length[:4], nth_key(np.uint64(9), np.arange(4)), np.zeros(4, np.int32), np.full(4, 2), np.ones(4, np.int64)
    )
    anywhere = copies(length[4:], 5, seed=3)
    both = Copies(*(np.concatenate(columns) for columns in zip(anywhere, one_row, strict=True)))
    found = place(both, everywhere(5), Bins(5, 64, NONE, NONE), 0).start
    check(found, both.length, 64, 5)
    assert (found[16:] // 64 == 2).all()
