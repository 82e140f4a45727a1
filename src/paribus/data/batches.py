"""The seam between data and training: a batch is a pure function of the step."""

import hashlib
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IGNORE = -100  # a target where no loss is taken: the value that torch's cross_entropy ignores by default


class Noise(NamedTuple):
    """Gaussian noise on the input embeddings of the first rows of a global batch, by what it is generated from."""

    std: float
    key: int  # 64 bits, unsigned
    step: int  # the counter of the noise: of one that is shared by several steps, the first of them
    num_rows: int  # of the global batch
    row: int = 0  # of the global batch: the first one of this slice

    def of(self, size: int) -> int:
        """How many of the first rows of a slice of `size` rows get it."""
        return min(max(self.num_rows - self.row, 0), size)

    def digested(self) -> bytes:
        return struct.pack("<dQqqq", *self)


class Batch(NamedTuple):
    """B windows of T predictions, in training order: ranks and micro-batches are slices of it."""

    tokens: NDArray[np.int32]  # (B, T)
    targets: NDArray[np.int32]  # (B, T), IGNORE where no loss is taken
    window_ids: NDArray[np.int64]  # (B,): the window's first token in the store, or its number in a synthetic source
    noise: Noise | None = None  # on the input embeddings

    def rows(self, start: int, stop: int) -> "Batch":
        noise = self.noise and self.noise._replace(row=self.noise.row + start)
        return Batch(self.tokens[start:stop], self.targets[start:stop], self.window_ids[start:stop], noise)

    def digest(self) -> bytes:
        """8 bytes (BLAKE2b) of the tokens, targets, window ids and noise, little-endian: what a run consumed at a step."""
        hasher = hashlib.blake2b(digest_size=8)
        for array, dtype in ((self.tokens, "<i4"), (self.targets, "<i4"), (self.window_ids, "<i8")):
            hasher.update(np.ascontiguousarray(array, dtype=dtype).data)
        if self.noise is not None:
            hasher.update(self.noise.digested())
        return hasher.digest()


Batches = Callable[[int], Batch]
# Writes over the rows of a step, in place: (step, rows (B, S) int32), the S tokens of each window in their order. It sees
# the global batch after its order is settled; inputs and targets are made from what it leaves.
Overlay = Callable[[int, NDArray[np.int32]], None]


def untouched(step: int, rows_BS: NDArray[np.int32]) -> None:
    """The overlay that writes nothing."""


class Stream(NamedTuple):
    """What a `data:` section becomes: batches, and the facts about them that a run records."""

    batches: Batches
    window: int  # predictions a window
    row_tokens: int  # S: tokens that the source supplies for a window: T, or T + 1 where the first is no target
    vocab_size: int  # ids are in [0, vocab_size)
    categories: tuple[str, ...]  # the components the run trains on, in the order of their indices
    windows_per_epoch: int | None  # None: windows are drawn independently
    unique_tokens: int | None  # distinct target positions that the run can reach; None: unbounded (synthetic)
    facts: dict[str, Any]  # for provenance and the report: documents used, too short, chunks a category, ...
