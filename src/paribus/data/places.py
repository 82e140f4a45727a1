"""Where windows can begin in the documents of a split, and the windows that are read there."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.batches import Batch
from paribus.data.config import Seeds, TextData
from paribus.data.mixture import deal_labels
from paribus.data.store import Store
from paribus.errors import DataError


class View(NamedTuple):
    """How a run looks at a store: which documents, cut into which windows, called by which categories."""

    split: str
    window: int  # predictions
    start_token: bool = False  # a window reads `window` tokens behind a start token, else `window` + 1 tokens
    labels_seed: int | None = None  # deals the categories out anew; None keeps them

    @property
    def num_read(self) -> int:
        """Tokens of a document that a window takes."""
        return self.window if self.start_token else self.window + 1


def view_of(data: TextData, seeds: Seeds, split: str | None = None) -> View:
    """The view that a `data:` section describes, or the same of another split."""
    labels_seed = seeds.labels if data.labels == "shuffled" else None
    return View(split or data.split, data.window, data.start_token, labels_seed)


class Places(NamedTuple):
    """Where windows may begin in K categories: numbered category by category, document by document, place by place.

    D documents hold at least one place; shorter ones are only counted."""

    categories: tuple[str, ...]  # K
    offset: NDArray[np.int64]  # (D,): position of each document's first place
    first: NDArray[np.int64]  # (D + 1,): number of each document's first place; then how many there are
    documents: NDArray[np.int64]  # (K + 1,): each category's first document among the D
    bounds: NDArray[np.int64]  # (K + 1,): number of each category's first place
    too_short: NDArray[np.int64]  # (K,): documents without a place
    stride: int  # tokens between the places of a document
    shift: int  # 2^shift places share a guess
    guess: NDArray[np.int32]  # the document of every first of them: saves nine searches of ten

    def positions(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The store's token at which each place is."""
        document = self.guess[numbers >> self.shift]
        wrong = np.flatnonzero(numbers >= self.first[document + 1])
        document[wrong] = self.first.searchsorted(numbers[wrong], side="right") - 1
        positions: NDArray[np.int64] = self.offset[document] + (numbers - self.first[document]) * self.stride
        return positions

    def sizes(self) -> NDArray[np.int64]:
        """(K,) places of each category."""
        return np.diff(self.bounds)

    def num_targets(self, window: int) -> int:
        """How many tokens of the store are the target of some window: all that windows of each document reach."""
        return int(self.first[-1] * self.stride + len(self.offset) * (window - self.stride))


def lay_out(store: Store, view: View, categories: Sequence[str], stride: int = 1) -> Places:
    """Number the places of a view: every start at a stride of 1, non-overlapping targets at a stride of `window`.

    Raises DataError when a category has no document that is long enough, or the store has no start token but needs it.
    """
    _check_start_token(store, view)
    table = store.documents
    rows = store.rows(view.split)
    labels = labels_of(store, view.labels_seed)[rows]
    kept, too_short = [], []
    for name in categories:
        own = rows[labels == store.categories.index(name)]
        fits = table.length[own] >= view.num_read
        kept.append(own[fits])
        too_short.append(np.count_nonzero(~fits))
    _check_lengths(store, view, categories, kept)
    chosen = np.concatenate(kept)
    places = (table.length[chosen] - view.num_read) // stride + 1
    first = np.concatenate([[0], np.cumsum(places)])
    shift = max(0, (int(first[-1]) // (4 * len(places))).bit_length() - 1)  # four to eight guesses a document
    guess = (first.searchsorted(np.arange(0, first[-1], 1 << shift), side="right") - 1).astype(np.int32)
    documents = np.cumsum([0, *map(len, kept)])
    offset = table.offset[chosen]
    return Places(
        tuple(categories), offset, first, documents, first[documents], np.array(too_short), stride, shift, guess
    )


def read(store: Store, view: View, starts: NDArray[np.int64]) -> Batch:
    """The windows that begin at these positions of the store; their ids are the positions."""
    return as_batch(store, view, store.gather(starts, view.num_read), starts)


def as_batch(store: Store, view: View, rows_BS: NDArray[np.int32], starts: NDArray[np.int64]) -> Batch:
    """Inputs and targets of rows: with a start token before each every token is a target, else all but the first."""
    if not view.start_token:
        return Batch(rows_BS[:, :-1], rows_BS[:, 1:], starts)
    assert store.start_token_id is not None  # lay_out has refused such a store
    shifted = np.empty_like(rows_BS)
    shifted[:, 0] = store.start_token_id
    shifted[:, 1:] = rows_BS[:, :-1]
    return Batch(shifted, rows_BS, starts)


def labels_of(store: Store, labels_seed: int | None = None) -> NDArray[np.int32]:
    """(D,) the category of every document of the store; a seed deals them out anew within each split."""
    table = store.documents
    return table.category if labels_seed is None else deal_labels(table.category, table.split, labels_seed)


def categories_of(store: Store, window_ids: NDArray[np.int64], labels_seed: int | None = None) -> list[str]:
    """The category of each window, by its id."""
    codes = labels_of(store, labels_seed)[store.document_at(window_ids)]
    return [store.categories[code] for code in codes]


def _check_start_token(store: Store, view: View) -> None:
    if view.start_token and store.start_token_id is None:
        raise DataError(
            f"start_token: the tokenizer of {store.path} has no special token to put before a window; "
            "set start_token: false, or prepare the store with a tokenizer that has one"
        )


def _check_lengths(store: Store, view: View, categories: Sequence[str], kept: Sequence[NDArray[np.int64]]) -> None:
    empty = [name for name, rows in zip(categories, kept, strict=True) if not len(rows)]
    if not empty:
        return
    longest = int(store.documents.length[store.rows(view.split)].max(initial=0))
    need = f"a window of {view.window} predictions reads {view.num_read} tokens"
    if longest < view.num_read:
        raise DataError(
            f"window: {need}, but the longest document of split {view.split!r} has {longest}; choose a window of "
            f"at most {longest - (view.num_read - view.window)}"
        )
    raise DataError(
        f"categories: {', '.join(empty)}: no document of split {view.split!r} is long enough ({need}); "
        "choose other categories or a shorter window"
    )
