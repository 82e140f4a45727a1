"""The windows that text runs train on and are judged by: functions of (config, step), and frozen sets with ids."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.batches import Batch, Overlay, Stream, untouched
from paribus.data.chunks import Epochs, plan_epochs
from paribus.data.config import ChunkWindows, RandomWindows, Seeds, TextData
from paribus.data.draws import Draws, weigh
from paribus.data.mixture import check_names, choose_categories
from paribus.data.numbered import by_step
from paribus.data.permutation import shuffle_key, without_replacement
from paribus.data.places import Places, View, as_batch, categories_of, lay_out, read, view_of
from paribus.data.store import Store, open_store
from paribus.data.tokenizer import token_bytes

__all__ = ["FrozenWindows", "View", "categories_of", "frozen_windows", "text_stream", "unique_tokens", "view_of"]

_WINDOWS_AT_ONCE = 2**15  # their starts take 256 KiB and two or three milliseconds; fewer cost more each


def text_stream(config: TextData, seeds: Seeds, batch_size: int, overlay: Overlay = untouched) -> Stream:
    """The training windows of a store, with `overlay` written over them.

    Raises DataError when a category is unknown or its documents are too few or too short; StoreError without a store.
    """
    store = open_store(config.store)
    view = view_of(config, seeds)
    law = _law(config, seeds, store, view)
    positions = by_step(law.positions, batch_size, _WINDOWS_AT_ONCE)
    if isinstance(law, Draws):
        windows_per_epoch, unique = None, law.places.num_targets(view.window)
    else:
        windows_per_epoch, unique = law.slots, law.num_distinct() * view.window

    def batches(step: int) -> Batch:
        starts = positions(step).copy()
        rows = store.gather(starts, view.num_read)
        overlay(step, rows)
        return as_batch(store, view, rows, starts)

    categories, facts = law.places.categories, _facts(law.places) | law.facts()
    size = (view.window, view.num_read, store.vocab_size)
    return Stream(batches, *size, categories, windows_per_epoch, unique, facts)


def unique_tokens(config: TextData, seeds: Seeds, num_windows: int) -> int:
    """How many different tokens the first so many windows of a run predict: for random windows, in expectation."""
    store, view = open_store(config.store), view_of(config, seeds)
    law = _law(config, seeds, store, view)
    if isinstance(law, Draws):
        return round(law.expected_targets(view.window, num_windows))
    return law.num_distinct(num_windows) * view.window


class FrozenWindows(NamedTuple):
    """Evaluation windows that stay the same for every model, category by category."""

    batch: Batch  # all N windows
    category: NDArray[np.int32]  # (N,): index into categories
    categories: tuple[str, ...]
    target_bytes: NDArray[np.int32] | None  # (N, T): UTF-8 bytes of each target; None: the tokenizer does not tell


def frozen_windows(store: Store, view: View, categories: Sequence[str], per_category: int, seed: int) -> FrozenWindows:
    """Draw `per_category` windows of each category, every start equally likely and none twice while there are others.

    Those of a category depend on (store, view, seed) and its name: not on the other categories, and fewer are the first
    of more. Raises DataError for an unknown category, and one without a document that is long enough."""
    check_names("categories", categories, store.categories)
    places = lay_out(store, view, categories)
    sizes = places.sizes().tolist()
    keys = [shuffle_key(seed, f"evaluation: {name}, {view.split}", view.window) for name in categories]
    drawn = [without_replacement(per_category, size, key) for size, key in zip(sizes, keys, strict=True)]
    numbers = np.concatenate(drawn) + np.repeat(places.bounds[:-1], per_category)
    batch = read(store, view, places.positions(numbers))
    num_bytes = token_bytes(store.tokenizer())
    category = np.repeat(np.arange(len(categories), dtype=np.int32), per_category)
    return FrozenWindows(batch, category, tuple(categories), None if num_bytes is None else num_bytes[batch.targets])


def _law(config: TextData, seeds: Seeds, store: Store, view: View) -> Draws | Epochs:
    categories = choose_categories(config.categories, store.categories, seeds.categories)
    match config.windows:
        case RandomWindows():
            return weigh(config.windows, lay_out(store, view, categories), seeds.order)
        case ChunkWindows(design=design):
            return plan_epochs(design, lay_out(store, view, categories, stride=view.window), seeds.order)


def _facts(places: Places) -> dict[str, Any]:
    names = places.categories
    return {
        "documents": dict(zip(names, np.diff(places.documents).tolist(), strict=True)),
        "too_short": dict(zip(names, places.too_short.tolist(), strict=True)),
    }
