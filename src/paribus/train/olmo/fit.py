"""A run under OLMo-core's own trainer: it takes the steps, we follow them as those of our loop.

Dimension key: B rows of S tokens."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from olmo_core.train import Duration, LoadStrategy, Trainer, TrainerConfig
from olmo_core.train.callbacks import Callback, CheckpointerCallback
from olmo_core.train.common import TRAIN_CE_LOSS_METRIC

from paribus.data.batches import IGNORE, Batch, Stream
from paribus.data.token_files import TokenFiles
from paribus.train.engine import StepReport
from paribus.train.loop import Action, Job, Log, Outcome, Session, begin, diverged, end, follow
from paribus.train.olmo.engine import OlmoCoreEngine
from paribus.train.olmo.loader import Feed, PlannedLoader, build_loader
from paribus.train.state import LoopState


def fit_with_olmo_core(
    engine: OlmoCoreEngine, feed: Feed, stream: Stream, job: Job, actions: Sequence[Action], log: Log
) -> Outcome:
    """Do what `loop.fit` does, with OLMo-core's trainer in place of our loop; `stream` only tells sizes.

    Errors are those of `loop.fit`, and whatever the trainer raises."""
    batch_size = job.config.batch_size
    loader = build_loader(feed, batch_size, engine.rank, engine.world, job.run.checkpoints)
    assert loader.total_batches * batch_size == stream.windows_per_epoch
    with begin(engine, stream, job, actions, log) as (session, state):
        follower = Follower(session, state, engine, feed.files)
        if not state.finished:
            trainer = _trainer(engine, loader, job, session.total, follower)
            _go_to(trainer, loader, state.step)
            trainer.fit()
        return end(session, follower.state)


def _trainer(engine: OlmoCoreEngine, loader: PlannedLoader, job: Job, total: int, follower: "Follower") -> Trainer:
    """OLMo-core's trainer without what we do ourselves: checkpoints, which would be pickles, and logs."""
    config = TrainerConfig(
        save_folder=str(job.run.checkpoints),
        load_strategy=LoadStrategy.never,
        no_checkpoints=True,
        max_duration=Duration.steps(total),
        metrics_collect_interval=job.config.log_every,
        cancel_check_interval=total + 1,  # the follower asks all ranks after every step
        async_bookkeeping=False,
        device=str(engine.device),
        callbacks={"follower": follower, "checkpointer": CheckpointerCallback(enabled=False)},
    )
    return config.build(engine.module, loader)


def _go_to(trainer: Trainer, loader: PlannedLoader, step: int) -> None:
    """Let the trainer go on after so many steps."""
    epochs, batches = divmod(step, loader.total_batches)
    trainer.global_step, trainer.epoch = step, epochs + 1
    trainer.global_train_tokens_seen = step * loader.global_batch_size
    loader.batches_processed, loader.tokens_processed = batches, batches * loader.global_batch_size


class Follower(Callback):  # type: ignore[misc]  # OLMo-core has no types
    """Writes down what the trainer does, from the tensors that its model was called with, and tells it when to stop."""

    def __init__(self, session: Session, state: LoopState, engine: OlmoCoreEngine, files: TokenFiles) -> None:
        self.state = state
        self._session, self._engine, self._files = session, engine, files
        self._calls: list[torch.Tensor] = []  # of the model in this step: (rows, 2 S + 1), inputs, labels, instance
        engine.module.model.register_forward_pre_hook(self._see, with_kwargs=True)
        engine.module.optim.register_step_pre_hook(self._judge)

    def _see(self, model: torch.nn.Module, args: tuple[torch.Tensor], kwargs: dict[str, Any]) -> None:
        if "index" in kwargs:  # the batch on which the trainer rehearses has none
            self._calls.append(torch.cat([args[0], kwargs["labels"], kwargs["index"][:, None]], dim=1))

    def _judge(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """After the backward passes and the clipping, before the update. Raises Diverged: then no weight is changed."""
        loss = self._engine.mean(self.trainer.get_metric(TRAIN_CE_LOSS_METRIC))
        norm = float(self.trainer.get_metric("total grad norm", namespace="optim"))
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        self._report = StepReport(loss, norm, {}, "applied" if is_finite else "refused")
        self._batch = self._consumed()
        if not is_finite:
            raise diverged(self._session, self.step, self._report, self._batch)

    def _consumed(self) -> Batch:
        """The global batch, from what the models of all ranks were called with."""
        seen = self._engine.gather(torch.cat(self._calls)).cpu().numpy()
        self._calls.clear()
        inputs, labels, rows = seen[:, : seen.shape[1] // 2], seen[:, seen.shape[1] // 2 : -1], seen[:, -1]
        assert (labels[:, -1] == IGNORE).all()  # nothing follows the last token of a row
        tokens, targets = (array[:, :-1].astype("int32") for array in (inputs, labels))
        return Batch(tokens, targets, self._files.positions(rows))

    def pre_train(self) -> None:
        self._session.interrupts.listen()  # the trainer has just installed its own handlers

    def pre_load_batch(self) -> None:
        self._session.clock.lap("loop_s")

    def pre_step(self, batch: dict[str, Any]) -> None:
        self._session.clock.lap("data_s")

    def post_train_batch(self) -> None:
        lr = float(self._engine.module.optim.param_groups[0]["lr"])
        self.state, is_stopped = follow(self._session, self.state, self._batch, self._report, lr)
        if is_stopped or (self.state.finished and self.state.step < self._session.total):
            self.trainer.cancel_run("stopped, or finished before its budget", no_sync=True)
