import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paribus.data.config import AllCategories, ExplicitCategories, NestedCategories
from paribus.data.mixture import choose_categories, deal_labels, shares
from paribus.errors import DataError

ARXIV = ["cs.AI", "cs.CE", "cs.CV", "cs.DS", "cs.IT", "cs.NE", "cs.PL", "cs.SY", "math.AC", "math.GR", "math.ST"]


def nested(k, seed, available=ARXIV):
    return choose_categories(NestedCategories(k=k), available, seed)


def test_the_choices_of_the_original_are_made_again():
    assert nested(3, 0) == ("cs.CE", "math.AC", "math.GR")
    assert nested(1, 1) == ("cs.PL",)


@given(st.integers(0, 2**32), st.permutations(ARXIV))
def test_subsets_of_one_seed_nest_whatever_the_order_of_the_names(seed, available):
    chosen = [nested(k, seed, available) for k in range(1, 12)]
    assert all(set(small) < set(large) for small, large in itertools.pairwise(chosen))
    assert all(list(names) == sorted(names) for names in chosen)
    assert chosen == [nested(k, seed) for k in range(1, 12)]


def test_all_and_explicit_choices_are_sorted():
    assert choose_categories(AllCategories(), ["b", "a"], 0) == ("a", "b")
    assert choose_categories(ExplicitCategories(names=["math.ST", "cs.AI"]), ARXIV, 5) == ("cs.AI", "math.ST")


@pytest.mark.parametrize("k", [0, 12])
def test_a_k_out_of_range_is_refused(k):
    with pytest.raises(DataError, match=f"found {k}, expected 1 to 11: .*cs.AI, cs.CE") as error:
        choose_categories(NestedCategories.model_construct(k=k), ARXIV, 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cs.PL", "cs.AIs"], "no category 'cs.AIs'; did you mean cs.AI"),
        (["physics"], "no category 'physics'; the categories are cs.AI"),
        (["cs.PL", "cs.AI", "cs.PL"], "cs.PL listed more than once"),
    ],
)
def test_unknown_and_repeated_names_are_refused(names, message):
    with pytest.raises(DataError, match=message) as error:
        choose_categories(ExplicitCategories(names=names), ARXIV, 0)
    assert "\n" not in str(error.value)


def test_shares_follow_the_weights():
    documents, starts = np.array([1, 3]), np.array([60, 20])
    assert shares("component", "ab", documents, starts).tolist() == [0.5, 0.5]
    assert shares("document", "ab", documents, starts).tolist() == [0.25, 0.75]
    assert shares("token", "ab", documents, starts).tolist() == [0.75, 0.25]
    assert shares({"b": 4.0, "a": 1.0}, "ab", documents, starts).tolist() == [0.2, 0.8]


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"cs.AI": 1.0}, "no weight for cs.PL"), ({"cs.AI": 1.0, "cs.PL": 1.0, "cs.Al": 1.0}, "did you mean cs.AI")],
)
def test_weights_that_do_not_name_the_categories_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        shares(weights, ["cs.AI", "cs.PL"], np.ones(2, int), np.ones(2, int))


def test_dealing_labels_anew_changes_no_class_size_in_any_group():
    generator = np.random.default_rng(0)
    labels, groups = generator.integers(0, 5, 3000, np.int32), generator.integers(0, 3, 3000, np.int32)
    dealt = deal_labels(labels, groups, seed=1)
    for group in range(3):
        assert np.array_equal(np.bincount(dealt[groups == group]), np.bincount(labels[groups == group]))
    assert 0.15 < (dealt == labels).mean() < 0.25  # 1/5 by chance
    assert np.array_equal(dealt, deal_labels(labels, groups, seed=1))
    assert not np.array_equal(dealt, deal_labels(labels, groups, seed=2))
