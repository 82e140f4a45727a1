"""Oracles: enumeration for small sizes, and the chi-square law of a uniform shuffle."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paribus.data.permutation import nth_key, permute, shuffle_key

SIZES = st.integers(1, 3000)
KEYS = st.integers(0, 2**64 - 1)
RECORDED = [7, 3, 5, 6, 8, 0, 4, 2, 9, 1]


def keys(count):
    return np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)


def deviation(counts):
    """Chi-square of counts that should be equal, in standard deviations from its mean."""
    counts = np.asarray(counts, float)
    free = counts.size - 1
    return (((counts - counts.mean()) ** 2).sum() / counts.mean() - free) / math.sqrt(2 * free)


@pytest.mark.parametrize("size", range(1, 11))
def test_a_small_size_loses_or_repeats_no_index_under_any_key(size):
    places = permute(np.arange(size), size, keys(300)[:, None])
    assert (np.sort(places, axis=1) == np.arange(size)).all()


@given(SIZES, KEYS)
def test_no_size_loses_or_repeats_an_index(size, key):
    assert (np.sort(permute(np.arange(size), size, key)) == np.arange(size)).all()


def test_a_large_size_loses_no_index():
    size = 501_760
    assert (np.bincount(permute(np.arange(size), size, 7), minlength=size) == 1).all()


@pytest.mark.parametrize("size", [2**32 - 1, 2**32, 2**32 + 1, 3 * 2**33 + 11, 2**52 + 3, 2**63 - 1])
def test_sizes_beyond_2_32_repeat_no_place_and_reach_every_part(size):
    index = np.concatenate([np.arange(50_000), size - 1 - np.arange(50_000)])
    places = permute(index, size, 5)
    assert np.unique(places).size == index.size
    assert places.min() >= 0
    assert places.max() < size
    assert abs(deviation(np.bincount((places / size * 64).astype(int).clip(max=63), minlength=64))) < 4
    assert abs(deviation(np.bincount(places % 2, minlength=2))) < 4


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_no_order_of_a_small_size_is_favoured(size):
    places = permute(np.arange(size), size, keys(30_000)[:, None])
    counts = np.unique(places @ size ** np.arange(size), return_counts=True)[1]
    assert counts.size == math.factorial(size)
    assert size == 1 or abs(deviation(counts)) < 4


@pytest.mark.parametrize(("size", "other"), [(7, 1), (20, 1), (63, 1), (63, 32), (101, 1), (1000, 1)])
def test_where_one_index_goes_tells_nothing_about_another(size, other):
    first, second = permute(np.array([[0], [other]]), size, keys(150_000))
    buckets = min(size, 63)
    joint = np.zeros((buckets, buckets))
    np.add.at(joint, (first * buckets // size, second * buckets // size), 1)
    members = np.bincount(np.arange(size) * buckets // size).astype(float)
    expected = first.size * (np.outer(members, members) - np.diag(members)) / (size * (size - 1))  # without replacement
    possible = expected > 0
    assert joint[~possible].sum() == 0
    free = possible.sum() - 1
    assert abs(((joint - expected)[possible] ** 2 / expected[possible]).sum() - free) < 4 * math.sqrt(2 * free)


@pytest.mark.parametrize("size", [10_000, 65_536, 100_003])
def test_the_lowest_bit_of_a_place_does_not_follow_the_index(size):
    places = permute(np.arange(size), size, shuffle_key(0, "test"))
    for stride in (1, 2, 3, 4, 8, 64, 256):
        low = places[::stride] % 2
        assert abs(low.mean() - 0.5) < 4 * 0.5 / math.sqrt(low.size)
        both = low[: low.size // 2 * 2].reshape(-1, 2) @ [2, 1]
        assert abs(deviation(np.bincount(both, minlength=4))) < 4


def test_neighbouring_keys_do_not_shuffle_alike():
    size = 1000
    places = permute(np.arange(size), size, np.arange(2**32, 2**32 + 200)[:, None])
    equal = (places[1:] == places[:-1]).sum(axis=1)  # fixed points of a random permutation: Poisson with mean 1
    assert abs(equal.mean() - 1) < 4 / math.sqrt(199)
    correlation = np.corrcoef(places)[np.triu_indices(200, 1)]
    assert abs(correlation).max() < 6 / math.sqrt(size)


def test_an_index_asked_for_alone_goes_where_it_goes_among_others():
    sizes = np.array([3, 500, 2**40, 17])
    index = np.array([2, 17, 2**39, 0])
    family = nth_key(9, np.arange(4))
    together = permute(index, sizes, family)
    assert together.tolist() == [int(permute(*row)) for row in zip(index, sizes, family, strict=True)]


def test_the_shuffle_of_a_recorded_key_stays():
    """Made by printing the left side. A change means that every run's order of chunks changes: raise the major version."""
    assert permute(np.arange(10), 10, 0).tolist() == RECORDED
