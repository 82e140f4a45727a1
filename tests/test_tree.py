"""Oracles: the definition of merging, leaf by leaf, and the inverse of a function."""

from hypothesis import given
from hypothesis import strategies as st

from paribus.tree import Where, dotted, merge, plain, planted, split

HERE = Where("test")


def test_the_same_kind_keeps_its_parents_keys():
    parent, child = planted({"w": {"kind": "a", "x": 1}}, HERE), planted({"w": {"kind": "a", "y": 2}}, HERE)
    assert plain(merge(parent, child)) == {"w": {"kind": "a", "x": 1, "y": 2}}


TREES = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.integers(0, 9),
        lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
        max_leaves=8,
    ),
    min_size=1,
)


def leaves(value, keys=()):
    if not isinstance(value, dict):
        return {keys: value}
    return {path: leaf for key, child in value.items() for path, leaf in leaves(child, (*keys, key)).items()}


@given(TREES, TREES)
def test_merging_keeps_every_leaf_of_the_child_and_those_of_the_parent_that_do_not_clash(parent, child):
    own = leaves(child)

    def clashes(keys):
        return any(keys[: len(other)] == other or other[: len(keys)] == keys for other in own)

    kept = {keys: leaf for keys, leaf in leaves(parent).items() if not clashes(keys)}
    assert leaves(plain(merge(planted(parent, HERE), planted(child, HERE)))) == own | kept


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_a_dotted_key_splits_into_what_it_was_made_from(keys):
    assert split(dotted(keys)) == tuple(keys)
