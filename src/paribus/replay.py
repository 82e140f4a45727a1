"""Regenerate the token stream of a run from its directory, with and without its insertions."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from paribus import experiment, treated
from paribus.data.batches import Batch, untouched
from paribus.data.config import TextData, TokenFilesData
from paribus.data.places import categories_of, view_of
from paribus.data.store import open_store
from paribus.data.stream import build_stream
from paribus.data.synthetic import windows
from paribus.data.tokenizer import read_tokenizer
from paribus.errors import RunError
from paribus.identity import fingerprints
from paribus.insertions.trace import Watch
from paribus.rundir import RunDir
from paribus.start import start_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Replay:
    """The stream of one run. `batch` also leaves the rows of its step, before and after the plan, in `watch`.

    Opening it verifies the store or the token files, and the plan. Raises RunError when the run has not begun, StoreError
    and PlanError when what it reads is not what it read."""

    def __init__(self, run: RunDir) -> None:
        self.run, self.config = run, experiment.load(run)
        if not run.stream_path.exists():
            raise RunError(f"{run.path}: no stream.u64: the run has not begun; `paribus train {run.path}` starts it")
        experiment.refuse_changes(run, self.config)
        self.consumed = np.fromfile(run.stream_path, dtype="<u8")  # the hash of every batch that was trained on
        first = start_of(self.config).first_step
        self.steps = range(first, first + len(self.consumed))  # that the run has taken
        data = self.config.data
        self.store = open_store(Path(data.store), verify=True) if isinstance(data, TextData) else None
        self.plan = treated.written(run, self.config, self.steps.stop)
        self.watch = Watch(self.plan.overlay if self.plan else untouched)
        self.stream = (
            treated.inserted_stream(self.config, self.plan, self.watch)
            if self.plan
            else build_stream(data, self.config.seeds, self.config.train.batch_size, self.watch)
        )

    def batch(self, step: int) -> Batch:
        return self.stream.batches(step)

    def was_consumed(self, step: int, batch: Batch) -> bool:
        """Whether the trainer logged this very batch at this step."""
        return int.from_bytes(batch.digest(), "little") == int(self.consumed[step - self.steps.start])

    def written(self, step: int) -> NDArray[np.bool_]:
        """(B, S): which tokens of the step that was replayed last the plan writes."""
        return np.zeros(self.watch.after.shape, bool) if self.plan is None else self.plan.mask(step)

    def categories(self, batch: Batch) -> list[str]:
        """The category of each window, as the run saw it."""
        data, seeds = self.config.data, self.config.seeds
        if isinstance(data, TextData):
            assert self.store is not None
            return categories_of(self.store, batch.window_ids, view_of(data, seeds).labels_seed)
        if isinstance(data, TokenFilesData):
            return [*self.stream.categories] * len(batch.window_ids)
        first, last = int(batch.window_ids[0]), int(batch.window_ids[-1])
        _, component = windows(data, seeds)(first, last + 1)
        return [self.stream.categories[number] for number in component]

    @cached_property
    def content(self) -> str | None:
        """The fingerprint of the tokens that the run reads; None for synthetic sources."""
        prints = fingerprints(self.config)
        return prints.get("data", prints.get("data.files"))

    @cached_property
    def tokenizer(self) -> "Tokenizer | None":
        """What decodes its tokens; None for synthetic sources, and for token files that name none."""
        data = self.config.data
        if isinstance(data, TokenFilesData):
            return None if data.tokenizer is None else read_tokenizer(Path(data.tokenizer))
        return self.store.tokenizer() if self.store else None
