"""Which categories a run takes, in which shares, and what it counts as their documents."""

import difflib
import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from paribus.data.config import AllCategories, Categories, ExplicitCategories, NestedCategories
from paribus.data.generators import generator
from paribus.errors import DataError


def choose_categories(choice: Categories, available: Sequence[str], seed: int) -> tuple[str, ...]:
    """The names that a choice takes, sorted; a nested choice of k is part of that of k + 1 under the same seed.

    Raises DataError for a k that is not 1 .. the number of names, an unknown name, or one that is listed twice."""
    names = sorted(available)
    match choice:
        case AllCategories():
            return tuple(names)
        case NestedCategories(k=k):
            if not 1 <= k <= len(names):
                raise DataError(
                    f"categories.k: found {k}, expected 1 to {len(names)}: the categories are {', '.join(names)}"
                )
            random.Random(seed).shuffle(names)
            return tuple(sorted(names[:k]))
        case ExplicitCategories(names=wanted):
            check_names("categories.names", wanted, names)
            repeated = sorted({name for name in wanted if wanted.count(name) > 1})
            if repeated:
                raise DataError(f"categories.names: {', '.join(repeated)} listed more than once; list each name once")
            return tuple(sorted(wanted))


def check_names(where: str, wanted: Iterable[str], available: Sequence[str]) -> None:
    """Raise DataError, with the name that may have been meant, unless every name is available."""
    for name in wanted:
        if name not in available:
            close = difflib.get_close_matches(name, available, 1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise DataError(f"{where}: no category {name!r}; {meant}the categories are {', '.join(available)}")


def shares(
    weights: str | Mapping[str, float],
    categories: Sequence[str],
    documents: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The probability of each of K categories: (K,), summing to 1.

    documents, starts: (K,) those of each category that a window may be drawn from.
    Raises DataError when explicit weights do not name exactly the categories."""
    match weights:
        case "component":
            mass = np.ones(len(categories))
        case "document":
            mass = documents.astype(float)
        case "token":
            mass = starts.astype(float)
        case Mapping():
            check_names("windows.weights", weights, categories)
            if missing := [name for name in categories if name not in weights]:
                raise DataError(f"windows.weights: no weight for {', '.join(missing)}; expected one for each category")
            mass = np.array([weights[name] for name in categories], float)
        case _:
            raise AssertionError(weights)
    share: NDArray[np.float64] = mass / mass.sum()
    return share


def deal_labels(labels: NDArray[np.int32], groups: NDArray[np.int32], seed: int) -> NDArray[np.int32]:
    """Deal the labels out anew among the documents of each group: the control in which a category means nothing.

    labels, groups: (D,), not modified. Every group keeps how many documents each label has."""
    dealt = np.empty_like(labels)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        dealt[members] = labels[generator(seed, "labels", int(group)).permutation(members)]
    return dealt
