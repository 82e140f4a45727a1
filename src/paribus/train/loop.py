"""The training loop: batches, steps, actions, checkpoints, and every way a run can end."""

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

from paribus.data.batches import IGNORE, Batch, Stream
from paribus.data.generators import key
from paribus.errors import Diverged
from paribus.objectives.objective import Objective
from paribus.rundir import RunDir, newest, write_json
from paribus.train import checkpoint
from paribus.train.budget import num_steps
from paribus.train.clock import Clock
from paribus.train.config import ReduceOnPlateau, TrainConfig
from paribus.train.engine import Engine, Host, StepReport
from paribus.train.optim import lr_factor
from paribus.train.progress import Meter
from paribus.train.records import Records
from paribus.train.signals import Interrupts
from paribus.train.state import LoopState, after_evaluation, after_step, finish_reason, losses

MAX_IDS_IN_A_LINE = 8


class Action(NamedTuple):
    """Something that happens between steps, on every rank: an evaluation, a sample."""

    every: int | None  # steps; None: only after the last step. After the last step it happens in any case
    at_start: bool  # also before the first step
    run: Callable[[int], Mapping[str, float]]  # step -> metrics, such as evaluation/NAME/loss


class Log(Protocol):
    """Where metrics are mirrored to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...


class Job(NamedTuple):
    """What a run is, apart from its data, model and objective."""

    config: TrainConfig
    run: RunDir
    seed: int  # of the dropout
    bar: bool = True  # a progress bar where stderr is a terminal


class Outcome(NamedTuple):
    """How fit ended; a loss that is not finite ends it with Diverged instead."""

    state: Literal["done", "stopped"]
    step: int
    reason: str
    signal: int = 0  # that stopped it: the caller exits with 128 + signal


class Session(NamedTuple):
    """A run in progress: what happens between its steps, whoever takes them."""

    host: Host
    job: Job
    actions: Sequence[Action]
    records: Records
    log: Log
    total: int  # steps
    epoch: int | None  # windows of one
    clock: Clock
    meter: Meter
    interrupts: Interrupts


def fit(engine: Engine, objective: Objective, stream: Stream, job: Job, actions: Sequence[Action], log: Log) -> Outcome:
    """Train the engine's prepared model to the end of its budget, from the newest checkpoint where there is one.

    Every file but timings.jsonl is a function of the arguments: killed at any moment and called again, it writes the
    same bytes (fp32 on a CPU). Raises Diverged for a loss that is not finite, RunError when the device is full,
    CheckpointError when the newest checkpoint is damaged."""
    with begin(engine, stream, job, actions, log) as (session, state):
        is_stopped = False
        while not state.finished and not is_stopped:
            session.clock.lap("loop_s")
            batch = stream.batches(state.step)
            session.clock.lap("data_s")
            lr = _learning_rate(job.config, state, session.total)
            report = engine.step(objective, batch, lr, key(job.seed, "dropout", state.step) % 2**62)
            if report.update == "refused":
                raise diverged(session, state.step + 1, report, batch)
            state, is_stopped = follow(session, state, batch, report, lr)
        return end(session, state)


@contextmanager
def begin(
    host: Host, stream: Stream, job: Job, actions: Sequence[Action], log: Log
) -> Iterator[tuple[Session, LoopState]]:
    """Open a run at its newest checkpoint; of a new one, act and save before the first step."""
    total = num_steps(job.config, stream)
    state, offsets = _resume(host, job.run)
    is_writer = host.rank == 0
    with (
        Interrupts() as interrupts,
        Records(job.run, offsets, is_writer=is_writer) as records,
        Meter(total, state.step, is_on=is_writer, bar=job.bar) as meter,
    ):
        clock = Clock(state)
        session = Session(host, job, actions, records, log, total, stream.windows_per_epoch, clock, meter, interrupts)
        if not offsets:
            state = _checkpoint(session, _act(session, state), is_asked=False)
        yield session, state


def follow(session: Session, state: LoopState, batch: Batch, report: StepReport, lr: float) -> tuple[LoopState, bool]:
    """All that follows one step on the global batch: logs, actions, checkpoints. Every rank calls it.

    Returns the state after it, and whether the run was asked to stop."""
    session.clock.lap("step_s")
    state = after_step(state, report, int((batch.targets != IGNORE).sum()))
    session.records.batch(batch)
    state = _record(session, state, report, lr)
    session.meter.show(state.step, report.loss, lr, session.clock.tokens_per_s(state))
    state = _act(session, state)
    is_interrupted = session.host.any(session.interrupts.received is not None)
    return _checkpoint(session, state, is_asked=is_interrupted), is_interrupted


def end(session: Session, state: LoopState) -> Outcome:
    """Close the books."""
    session.records.timing(state.step, session.clock.interval(state))  # the last checkpoint and evaluations
    if state.finished:
        return Outcome("done", state.step, state.finished)
    number = session.interrupts.received or signal.SIGTERM  # where another rank received it
    return Outcome("stopped", state.step, f"{number.name} after step {state.step}", number)


def _resume(host: Host, run: RunDir) -> tuple[LoopState, dict[str, int]]:
    """Load the newest checkpoint; without one, the beginning and no offsets."""
    folder = newest(run.checkpoints)
    if host.rank == 0 and folder:
        checkpoint.verify(folder)
    host.barrier()
    saved = checkpoint.load_state(folder) if folder else {"loop": LoopState().to_json(), "offsets": {}}
    if folder:
        host.load(folder)
    state = LoopState.from_json(saved["loop"])
    if host.rank == 0:
        checkpoint.prune(run.checkpoints, state.retention.keeps())
    return state, saved["offsets"]


def _learning_rate(config: TrainConfig, state: LoopState, total: int) -> float:
    """The rate of the step after `state`."""
    schedule = config.schedule
    reduced = state.plateau.factor(schedule) if isinstance(schedule, ReduceOnPlateau) else 1.0
    return config.optimizer.lr * lr_factor(schedule, state.step + 1, total) * reduced


def _record(session: Session, state: LoopState, report: StepReport, lr: float) -> LoopState:
    """Write the step's metrics when they are due, and the mean loss of an epoch that this step ended."""
    config, step, epoch = session.job.config, state.step, session.epoch
    if step % config.log_every == 0 or step == session.total:
        values = {"loss": report.loss, "lr": lr, "grad_norm": report.grad_norm, "tokens": state.tokens, **report.sums}
        if config.precision == "fp16":
            values["skipped_steps"] = state.skipped
        _publish(session, step, values)
        session.records.timing(step, session.clock.interval(state))
    ended, before = ((n * config.batch_size // epoch if epoch else 0) for n in (step, step - 1))
    if ended > before:
        _publish(session, step, {"epoch": ended, "epoch/loss": state.epoch_loss / state.epoch_steps})
        return state._replace(epoch_loss=0.0, epoch_steps=0)
    return state


def _act(session: Session, state: LoopState) -> LoopState:
    """Run the actions that are due, and decide whether the run is over; if so, the other actions are due as well."""
    ran: set[int] = set()
    for last in (False, True):
        if last:
            state = state._replace(finished=finish_reason(state, session.job.config, session.total))
        for number, action in enumerate(session.actions):
            if number not in ran and _is_due(action, state, session.total):
                ran.add(number)
                state = after_evaluation(state, session.job.config, _run(session, action, state))
    return state


def _is_due(action: Action, state: LoopState, total: int) -> bool:
    if state.step == 0:
        return action.at_start
    return bool(state.finished) or state.step == total or (action.every is not None and state.step % action.every == 0)


def _run(session: Session, action: Action, state: LoopState) -> dict[str, float]:
    """Run an action on every rank and publish rank 0's numbers, and the best loss so far beside each new one."""
    session.clock.lap("loop_s")
    try:
        metrics = action.run(state.step)
    except Diverged as error:
        raise Diverged(f"{session.job.run.path}: step {state.step}: {error}") from error
    session.host.model.train()  # whatever mode the action left it in
    agreed = dict(zip(metrics, session.host.agree(list(metrics.values())), strict=True))
    best = {f"evaluation/{name}/best_loss": min(loss, state.best.get(name, loss)) for name, loss in losses(agreed)}
    _publish(session, state.step, agreed | best)
    session.clock.lap("actions_s")
    return agreed


def _publish(session: Session, step: int, values: Mapping[str, float]) -> None:
    session.records.metrics(step, values)
    if session.host.rank == 0:
        session.log.log(step, values)


def _checkpoint(session: Session, state: LoopState, *, is_asked: bool) -> LoopState:
    """Write the checkpoint of this step when one is due or asked for, then delete those that are no longer kept."""
    host, run = session.host, session.job.run
    decided = state.retention.decide(session.job.config.checkpoints, state.step, is_last=bool(state.finished))
    state = state._replace(retention=decided)
    if state.step in decided.keeps() or is_asked:
        session.clock.lap("loop_s")
        saved = {"loop": state.to_json(), "offsets": session.records.offsets()}
        checkpoint.save_checkpoint(host, run.checkpoints, state.step, saved)
        if host.rank == 0:
            checkpoint.prune(run.checkpoints, decided.keeps())
        session.clock.lap("checkpoint_s")
    return state


def diverged(session: Session, step: int, report: StepReport, batch: Batch) -> Diverged:
    """What to raise for a step whose loss or gradient is not finite; all window ids of its batch go to diverged.json."""
    path, ids = session.job.run.path, [int(number) for number in batch.window_ids]
    facts = {"step": step, "loss": str(report.loss), "grad_norm": str(report.grad_norm), "window_ids": ids}
    if session.host.rank == 0:
        write_json(path / "diverged.json", facts)
        session.log.log(step, {"not_finite": 1.0})
    what = "loss" if not math.isfinite(report.loss) else "gradient norm"
    shown = ", ".join(map(str, ids[:MAX_IDS_IN_A_LINE])) + (", ..." if len(ids) > MAX_IDS_IN_A_LINE else "")
    return Diverged(
        f"{path}: step {step}: the {what} is not finite (loss {report.loss}, gradient norm {report.grad_norm});"
        f" window ids {shown} ({len(ids)} in diverged.json); this step changed no weight"
    )
