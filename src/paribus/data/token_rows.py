"""The rows of token files as windows: their order in the epochs of a run, their targets, and those an evaluation scores.

Dimension key: B rows of S tokens, which give T = S - 1 predictions."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.batches import IGNORE, Batch, Overlay, Stream, untouched
from paribus.data.config import OlmoCoreOrder, OlmoOrder, PermutationOrder, Seeds, TokenFilesData
from paribus.data.numbered import by_step
from paribus.data.permutation import nth_key, permute, shuffle_key, without_replacement
from paribus.data.token_files import open_token_files
from paribus.data.tokenizer import read_tokenizer, token_bytes
from paribus.data.windows import FrozenWindows
from paribus.errors import DataError

CATEGORY = "all"  # the one category of these data
_ROWS_AT_ONCE = 2**15  # permuted together, as the windows of a store are
_MOST_ROWS = np.iinfo(np.uint32).max  # both trainers number rows in uint32 and assert that there are fewer


class RowOrder(NamedTuple):
    """Which rows each step of a run reads."""

    rows: Callable[[int], NDArray[np.integer]]  # step -> (B,), not to be written to
    rows_per_epoch: int


def row_order(data: TokenFilesData, num_rows: int, batch_size: int, seed: int) -> RowOrder:
    """Apply the rule of a `data:` section. Raises DataError when an epoch has no whole batch, or a trainer takes fewer rows.

    OLMo: olmo/data/iterable_dataset.py, `_build_global_indices` and `__iter__` of ai2-olmo 0.6.0. OLMo-core:
    olmo_core/data/data_loader.py, `_build_global_indices` and `_get_local_instance_indices` of NumpyFSLDataLoader in
    ai2-olmo-core 3.0.0. Their ranks take every W-th row of a batch; the global batch is the same."""
    match data.order:
        case PermutationOrder():
            return RowOrder(_permuted(num_rows, batch_size, seed), num_rows)
        case OlmoOrder():
            first_epoch = 0
        case OlmoCoreOrder():
            first_epoch = 1
    batches = num_rows // batch_size
    if not batches:
        raise DataError(
            f"order: an epoch of kind {data.order.kind} is cut to whole batches, and {num_rows:,} rows fill none of "
            f"{batch_size:,}"
        )
    if num_rows >= _MOST_ROWS:
        raise DataError(f"order: kind {data.order.kind} numbers fewer than {_MOST_ROWS:,} rows, found {num_rows:,}")
    indices = lru_cache(maxsize=2)(lambda epoch: _pcg64_shuffle(num_rows, seed + first_epoch + epoch))

    def rows(step: int) -> NDArray[np.integer]:
        epoch, batch = divmod(step, batches)
        of_step: NDArray[np.uint32] = indices(epoch)[batch * batch_size : (batch + 1) * batch_size]
        return of_step.astype(np.int64)

    return RowOrder(rows, batches * batch_size)


def token_stream(data: TokenFilesData, seeds: Seeds, batch_size: int, overlay: Overlay = untouched) -> Stream:
    """The rows of token files, with `overlay` written over them. A window's id is the position of its first token.

    Raises DataError for files that cannot be used; `batches` raises it when it reads an id beyond the vocabulary."""
    files = open_token_files(data, data.files)
    order = row_order(data, files.num_rows, batch_size, seeds.order)

    def batches(step: int) -> Batch:
        rows = order.rows(step)
        tokens = files.read(rows)
        overlay(step, tokens)
        return as_batch(data, tokens, files.positions(rows))

    return Stream(
        batches=batches,
        window=data.window,
        row_tokens=data.sequence_length,
        vocab_size=data.vocab_size,
        categories=(CATEGORY,),
        windows_per_epoch=order.rows_per_epoch,
        unique_tokens=files.num_rows * data.window,
        facts={
            "files": len(files.paths),
            "tokens": files.num_tokens,
            "tokens_dropped": files.num_tokens - files.num_rows * data.sequence_length,
            "rows": files.num_rows,
            "rows_per_epoch": order.rows_per_epoch,
        },
    )


def as_batch(data: TokenFilesData, rows_BS: NDArray[np.int32], positions: NDArray[np.int64]) -> Batch:
    """Inputs and targets of rows: each token but the first is predicted from those before it."""
    tokens, targets = rows_BS[:, :-1], rows_BS[:, 1:]
    if data.mask_separators:
        targets = targets.copy()  # the rows are also the inputs
        targets[tokens == data.eos] = IGNORE
    return Batch(tokens, targets, positions)


def distinct_tokens(data: TokenFilesData, seeds: Seeds, batch_size: int, num_windows: int) -> int:
    """How many different tokens the first so many windows of a run predict."""
    num_rows = open_token_files(data, data.files).num_rows
    order = row_order(data, num_rows, batch_size, seeds.order)
    if num_windows <= order.rows_per_epoch or order.rows_per_epoch == num_rows:
        return min(num_windows, num_rows) * data.window
    seen = np.zeros(num_rows, bool)  # each epoch of a trainer drops other rows
    for step in range(num_windows // batch_size):
        seen[order.rows(step)] = True
    return int(seen.sum()) * data.window


def heldout_windows(data: TokenFilesData, window: int, num_windows: int, seed: int) -> FrozenWindows:
    """Draw rows of the held-out files, none twice while there are others; fewer are the first of more.

    They depend on (files, window, seed) only. Raises DataError when a row cannot be read or there is none."""
    files = open_token_files(data, data.heldout_files, "heldout_files", window + 1)
    key = shuffle_key(seed, "evaluation: rows of token files", window)
    rows = without_replacement(num_windows, files.num_rows, key)
    batch = as_batch(data, files.read(rows), files.positions(rows))
    category = np.zeros(num_windows, np.int32)
    return FrozenWindows(batch, category, (CATEGORY,), _target_bytes(data, batch))


def _target_bytes(data: TokenFilesData, batch: Batch) -> NDArray[np.int32] | None:
    """(N, T) UTF-8 bytes of each target; 0 for ids that the tokenizer does not have and where no loss is taken."""
    known = None if data.tokenizer is None else token_bytes(read_tokenizer(Path(data.tokenizer)))
    if known is None:
        return None
    sizes = np.zeros(max(data.vocab_size, len(known)), np.int32)
    sizes[: len(known)] = known
    return np.where(batch.targets == IGNORE, np.int32(0), sizes[batch.targets])


def _permuted(num_rows: int, batch_size: int, seed: int) -> Callable[[int], NDArray[np.int64]]:
    key = shuffle_key(seed, "order of rows")

    def rows(first: int, stop: int) -> NDArray[np.int64]:
        epoch, slot = np.divmod(np.arange(first, stop), num_rows)
        return permute(slot, num_rows, nth_key(key, epoch))

    return by_step(rows, batch_size, _ROWS_AT_ONCE)


def _pcg64_shuffle(num_rows: int, seed: int) -> NDArray[np.uint32]:
    indices = np.arange(num_rows, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed)).shuffle(indices)
    return indices
