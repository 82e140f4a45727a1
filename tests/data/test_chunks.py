"""Oracles: the numbers of the study's plan, and enumeration of whole passes."""

import numpy as np
import pytest

from paribus.data.chunks import plan_epochs
from paribus.data.config import AllChunks, ConstantTotal, ConstantUnique
from paribus.data.places import Places
from paribus.errors import DataError


def chunks_of(sizes):
    """Categories of one long document each, all chunks of one token."""
    bounds = np.cumsum([0, *sizes])
    names = tuple(f"c{i}" for i in range(len(sizes)))
    one_each = np.arange(len(sizes) + 1)
    guess = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return Places(names, bounds[:-1], bounds, one_each, bounds, np.zeros(len(sizes), int), 1, 0, guess)


def by_category(places, chunks):
    """The chunks of each category, in their order."""
    category = np.searchsorted(places.bounds, chunks, side="right") - 1
    return [chunks[category == c] for c in range(len(places.categories))]


@pytest.mark.parametrize(("k", "quota"), [(1, 501_760), (2, 250_880), (3, 167_253), (4, 125_440), (5, 100_352)])
@pytest.mark.parametrize("design", [ConstantTotal, ConstantUnique])
def test_the_quota_of_the_study_are_those_of_its_plan(k, quota, design):
    epochs = plan_epochs(design(chunks=501_760), chunks_of([600_000] * k), 0)
    assert epochs.quota.tolist() == [quota] * k
    assert epochs.slots == k * quota


@pytest.mark.parametrize("design", [AllChunks(), ConstantTotal(chunks=30), ConstantUnique(chunks=12)])
def test_every_epoch_has_the_quota_of_each_category_in_an_order_of_its_own(design):
    places = chunks_of([7, 4, 50])
    epochs = plan_epochs(design, places, 1)
    kinds = []
    for epoch in range(6):
        chunks = epochs.chunks(epoch * epochs.slots, (epoch + 1) * epochs.slots)
        parts = by_category(places, chunks)
        assert [len(part) for part in parts] == epochs.quota.tolist()
        kinds.append(np.searchsorted(places.bounds, chunks, side="right").tobytes())
    assert len(set(kinds)) == 6


def test_a_category_runs_through_all_its_chunks_before_it_repeats_one():
    places = chunks_of([7, 4, 50])
    epochs = plan_epochs(ConstantTotal(chunks=30), places, 1)
    num_epochs = 14  # the smallest multiple of every category's pass: 14 x 10 = 20 x 7 = 35 x 4
    parts = by_category(places, epochs.chunks(0, num_epochs * 30))
    assert np.unique(parts[0], return_counts=True)[1].tolist() == [20] * 7
    assert np.unique(parts[1], return_counts=True)[1].tolist() == [35] * 4
    # 50 chunks, 10 an epoch: epochs 0-4 hold each once, and so do epochs 5-9, in another order
    first, second = (by_category(places, epochs.chunks(30 * 5 * n, 30 * 5 * (n + 1)))[2] for n in (0, 1))
    assert len(set(first)) == len(set(second)) == 50
    assert set(first[:10]) != set(second[:10])


def test_no_epoch_of_the_unique_design_reaches_outside_its_subset():
    places = chunks_of([40, 60])
    small, large = (plan_epochs(ConstantUnique(chunks=chunks), places, 3) for chunks in (10, 50))
    subset, superset = (set(epochs.chunks(0, 20 * epochs.slots)) for epochs in (small, large))
    assert len(subset) == 10
    assert len(superset) == 50
    assert subset < superset
    assert subset != set(plan_epochs(ConstantUnique(chunks=10), places, 4).chunks(0, 10))


def test_a_category_has_the_same_subset_whatever_the_others_are():
    alone = plan_epochs(ConstantUnique(chunks=10), chunks_of([40]), 3).chunks(0, 10)
    beside = plan_epochs(ConstantUnique(chunks=20), chunks_of([40, 60]), 3).chunks(0, 20)
    assert set(alone) == {chunk for chunk in beside if chunk < 40}


def test_what_is_missing_is_named():
    with pytest.raises(
        DataError, match=r"120 over 2 categories takes 60 chunks of each, but c0 has 40 \(20 short\); at"
    ):
        plan_epochs(ConstantUnique(chunks=120), chunks_of([40, 60]), 0)
    with pytest.raises(DataError, match="found 1, expected at least 2"):
        plan_epochs(ConstantTotal(chunks=1), chunks_of([40, 60]), 0)


def test_no_chunk_has_a_favoured_place_in_the_epochs():
    places = chunks_of([20])
    epochs = plan_epochs(AllChunks(), places, 0)
    chunks = epochs.chunks(0, 20 * 20_000).reshape(20_000, 20)
    counts = np.array([np.bincount(chunks[:, slot], minlength=20) for slot in range(20)])
    assert abs(((counts - 1000) ** 2 / 1000).sum() - 19**2) < 4 * np.sqrt(2 * 19**2)
