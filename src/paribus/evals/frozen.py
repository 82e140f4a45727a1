"""What evaluations are about: windows and sequences that depend on the settings only, so that all models share them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.batches import Batch
from paribus.data.config import DataConfig, Seeds, TextData, TokenFilesData
from paribus.data.generators import generator
from paribus.data.mixture import check_names, choose_categories
from paribus.data.places import view_of
from paribus.data.store import Store, open_store
from paribus.data.synthetic import Source, SyntheticData, component_names, synthetic_source, with_start
from paribus.data.token_rows import CATEGORY, heldout_windows
from paribus.data.windows import FrozenWindows, frozen_windows
from paribus.errors import ConfigError, StoreError
from paribus.evals.config import LossEval


def loss_windows(config: LossEval, data: DataConfig, seeds: Seeds) -> FrozenWindows:
    """The windows of a `loss` evaluation.

    Raises DataError if they cannot be drawn, StoreError if another store's tokenizer differs from the run's, ConfigError
    if the evaluation does not fit the data."""
    window = config.window or data.window
    if config.in_context is not None and config.in_context[1] > window:
        raise ConfigError(
            f"in_context: position {config.in_context[1]} lies beyond the window of {window} predictions; "
            f"expected a < b <= {window}"
        )
    match data:
        case TextData():
            return _text(config, data, seeds)
        case TokenFilesData():
            return _token_files(config, data, window)
        case _:
            return _synthetic(config, data)


def _text(config: LossEval, data: TextData, seeds: Seeds) -> FrozenWindows:
    home = open_store(data.store)
    store = home if config.store is None else open_store(config.store)
    refuse_other_tokenizer(store, home)
    match config.categories:
        case "active":
            names = list(choose_categories(data.categories, home.categories, seeds.categories))
        case "all":
            names = list(store.categories)
        case listed:
            names = listed
    view = view_of(data, seeds, config.split)
    if config.window is not None:
        view = view._replace(window=config.window)
    return frozen_windows(store, view, names, config.windows_per_category, config.seed)


def _token_files(config: LossEval, data: TokenFilesData, window: int) -> FrozenWindows:
    _refuse_store(config, data)
    if not data.heldout_files:
        raise ConfigError(
            "an evaluation of kind loss needs data.heldout_files, found none; name token files that are not trained on"
        )
    if not isinstance(config.categories, str):
        check_names("categories", config.categories, (CATEGORY,))
    return heldout_windows(data, window, config.windows_per_category, config.seed)


def _refuse_store(config: LossEval, data: DataConfig) -> None:
    if config.store is not None:
        raise ConfigError(f"store: found {config.store}, but data of kind {data.kind} have no store; remove the key")


def _synthetic(config: LossEval, data: SyntheticData) -> FrozenWindows:
    _refuse_store(config, data)
    source = synthetic_source(data)
    names = component_names(source)
    chosen = list(names) if isinstance(config.categories, str) else config.categories
    check_names("categories", chosen, names)
    numbers = [names.index(name) for name in chosen]
    sequences = source_sequences(
        source, numbers, config.windows_per_category, config.window or data.window, config.seed
    )
    category = np.repeat(np.arange(len(chosen), dtype=np.int32), config.windows_per_category)
    return FrozenWindows(sequences.batch, category, tuple(chosen), None)


def refuse_other_tokenizer(store: Store, home: Store) -> None:
    """Raise StoreError unless both stores were made with one tokenizer: ids would mean other words to the model."""
    ours, theirs = home.manifest.tokenizer_fingerprint, store.manifest.tokenizer_fingerprint
    if ours != theirs:
        raise StoreError(
            f"{store.path}: its tokenizer ({theirs[:8]}) is not that of the run's store {home.path} ({ours[:8]}); "
            "prepare the corpus again with the run's tokenizer"
        )


class FrozenSequences(NamedTuple):
    """N sequences of a synthetic source, the same number of each component."""

    batch: Batch  # tokens: start token, x_1 .. x_{T-1}; targets: x_1 .. x_T
    component: NDArray[np.int32]  # (N,)

    @property
    def symbols(self) -> NDArray[np.int32]:
        """(N, T): x_1 .. x_T."""
        return self.batch.targets


def source_sequences(
    source: Source, components: Sequence[int], num_each: int, length: int, seed: int
) -> FrozenSequences:
    """Draw `num_each` sequences of each component, each component from its own generator: what one gets does not depend
    on the others, and fewer are the first of more. Ids: component * 2^32 + number."""
    numbers = np.arange(num_each, dtype=np.int64)
    drawn = [
        source.sample(generator(seed, "evaluation", c), num_each, length, np.full(num_each, c))[0] for c in components
    ]
    ids = np.concatenate([(c << 32) + numbers for c in components])
    component = np.repeat(np.array(components, np.int32), num_each)
    return FrozenSequences(with_start(source, np.concatenate(drawn), ids), component)
