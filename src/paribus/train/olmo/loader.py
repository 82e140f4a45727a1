"""OLMo-core's own data loader, with an insertion plan laid over what it loads.

Dimension key: B rows of S tokens, of which rank r of W loads rows r, r + W, ..."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from olmo_core.data import DataCollator, NumpyFSLDataset
from olmo_core.data.data_loader import NumpyFSLDataLoader

from paribus.data.batches import Overlay
from paribus.data.config import TokenFilesData
from paribus.data.token_files import TokenFiles


class PlannedLoader(NumpyFSLDataLoader):  # type: ignore[misc]  # OLMo-core has no types
    """A NumpyFSLDataLoader whose order decides which instance stands in which row; the overlay then writes over the rows.

    It overrides where it would rather wrap: the trainer reads and sets a dozen attributes of its loader."""

    overlay: Overlay  # both are set after construction, which is OLMo-core's
    files: TokenFiles

    def reshuffle(self, epoch: int | None = None, **_: Any) -> None:
        """As OLMo-core does, but in memory: a file of indices that a killed process left half-written would be trusted."""
        super().reshuffle(epoch, in_memory=True)

    def _iter_batches(self) -> Iterator[dict[str, Any]]:
        first = (self.epoch - 1) * self.total_batches + self.batches_processed
        for step, batch in enumerate(super()._iter_batches(), first):
            if batch["input_ids"].max() >= self.dataset.vocab_size:
                self.files.read(batch["index"].numpy())  # raises, with file and token
            yield {**batch, "input_ids": self._planned(step, batch["input_ids"])}

    def _planned(self, step: int, tokens: torch.Tensor) -> torch.Tensor:
        """(B / W, S) tokens of this rank, after the overlay. It writes the global batch, where other rows stay empty."""
        own = tokens.numpy()
        rows_BS = np.zeros((len(own) * self.dp_world_size, own.shape[1]), np.int32)
        mine = rows_BS[self.dp_rank :: self.dp_world_size]
        mine[:] = own
        self.overlay(step, rows_BS)
        return torch.from_numpy(mine.astype(np.int64))


class Feed(NamedTuple):
    """What the trainer reads."""

    data: TokenFilesData
    seed: int  # of the order
    overlay: Overlay
    files: TokenFiles  # the same ones


def build_loader(feed: Feed, batch_size: int, rank: int, world: int, folder: Path) -> PlannedLoader:
    """The loader of one rank; batch_size: rows of the global batch; folder: must be given, nothing is written there.

    Iterating raises DataError, with file and token, for an id that is not below vocab_size."""
    data = feed.data
    dataset = NumpyFSLDataset(
        *feed.files.paths,
        sequence_length=data.sequence_length,
        pad_token_id=data.eos,  # never used: all rows are full
        eos_token_id=data.eos,
        vocab_size=data.vocab_size,
        dtype=getattr(np, data.dtype),
        include_instance_metadata=False,
    )
    dataset.prepare()
    loader = PlannedLoader(
        dataset,
        collator=DataCollator(pad_token_id=data.eos),
        global_batch_size=batch_size * data.sequence_length,  # OLMo-core counts tokens
        work_dir=folder,
        seed=feed.seed,
        num_threads=0,  # rows of mapped files are read in microseconds
        dp_world_size=world,
        dp_rank=rank,
    )
    loader.overlay, loader.files = feed.overlay, feed.files
    return loader
