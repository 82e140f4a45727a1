"""The loop on the single engine: exact resume, the order of events, and every way a run ends."""

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from counting_runs import VOCAB, counting, metrics_of, same_run, train
from ranks import on_ranks
from torch import Tensor, nn

from paribus.data.batches import Batch
from paribus.errors import CheckpointError, Diverged
from paribus.objectives.next_token import NextTokenLoss
from paribus.train.config import Budget, Checkpoints, EarlyStopping, ReduceOnPlateau
from paribus.train.loop import Action

EVERY_3 = Checkpoints(every=3)


def falling(losses: Mapping[int, float]) -> Callable[[int], dict[str, float]]:
    """An evaluation whose loss at each step is given."""
    return lambda step: {"evaluation/val/loss": losses[step]}


def test_ten_steps_differ_from_six_plus_four(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evaluate = [Action(2, True, lambda step: {"evaluation/val/loss": 1 / (step + 1)})]
    train(whole, checkpoints=EVERY_3, actions=evaluate)
    with pytest.raises(RuntimeError, match="power cut"):
        train(broken, checkpoints=EVERY_3, actions=evaluate, dies_after=8)  # two steps after its checkpoint
    train(broken, checkpoints=EVERY_3, actions=evaluate)
    same_run(whole, broken)


def test_the_stream_file_holds_other_hashes_than_the_batches(tmp_path: Path) -> None:
    train(tmp_path)
    stream = counting()
    assert (tmp_path / "stream.u64").read_bytes() == b"".join(stream.batches(step).digest() for step in range(10))


def test_a_hash_ignores_a_part_of_the_batch() -> None:
    batch = counting().batches(0)
    others = [
        batch._replace(**{name: np.where(np.arange(8) == 3, 7, getattr(batch, name).T).T}) for name in batch._fields[:3]
    ]
    assert len({other.digest() for other in [batch, *others]}) == 4


def test_evaluations_come_after_the_checkpoint_of_their_step(tmp_path: Path) -> None:
    seen: list[tuple[int, list[str]]] = []

    def look(step: int) -> dict[str, float]:
        seen.append((step, sorted(path.name for path in (tmp_path / "checkpoints").glob("*"))))
        return {"evaluation/x/loss": 1.0}

    train(
        tmp_path,
        checkpoints=Checkpoints(every=5, keep_last=0),
        actions=[Action(5, True, look), Action(None, False, look)],
    )
    assert seen == [(0, []), (5, []), (10, ["step-000005"]), (10, ["step-000005"])]


def test_a_metrics_line_misses_a_field_or_carries_a_clock(tmp_path: Path) -> None:
    train(tmp_path, log_every=4)
    lines = metrics_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert all(set(line) == {"step", "loss", "lr", "grad_norm", "tokens"} for line in lines)
    assert lines[-1]["tokens"] == 10 * 8 * 16
    assert lines[-1]["lr"] == pytest.approx(1e-3, rel=1e-12)  # cosine to a tenth of the peak


def test_the_loss_does_not_fall(tmp_path: Path) -> None:
    train(tmp_path, budget=Budget(steps=60))
    losses = [line["loss"] for line in metrics_of(tmp_path)]
    assert losses[0] == pytest.approx(np.log(VOCAB), abs=0.2)
    assert losses[-1] < losses[0] - 0.5


def test_an_evaluation_turns_dropout_off(tmp_path: Path) -> None:
    train(tmp_path / "plain")
    train(tmp_path / "evaluated", leaves_eval_mode=True)
    plain, evaluated = (
        [line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line] for name in ("plain", "evaluated")
    )
    assert plain == evaluated


def test_epoch_averages_are_lost_by_a_resume(tmp_path: Path) -> None:
    stream = counting(windows_per_epoch=28)
    with pytest.raises(RuntimeError):
        train(tmp_path, stream=stream, checkpoints=EVERY_3, dies_after=5)
    train(tmp_path, stream=stream, checkpoints=EVERY_3)
    losses = [line["loss"] for line in metrics_of(tmp_path) if "loss" in line]
    epochs = [line for line in metrics_of(tmp_path) if "epoch" in line]
    assert [(line["step"], line["epoch"]) for line in epochs] == [(4, 1), (7, 2)]
    assert epochs[1]["epoch/loss"] == pytest.approx(np.mean(losses[4:7]), rel=1e-12)


def test_early_stopping_skips_the_final_evaluations_or_checkpoint(tmp_path: Path) -> None:
    losses = falling({2: 3.0, 4: 2.0, 6: 1.95, 8: 2.5})
    last: list[int] = []

    def at_the_end(step: int) -> dict[str, float]:
        last.append(step)
        return {}

    actions = [Action(2, False, losses), Action(None, False, at_the_end)]
    outcome = train(tmp_path, actions=actions, early_stopping=EarlyStopping(evaluation="val", patience=2, delta=0.1))
    assert (outcome.state, outcome.step, last) == ("done", 8, [8])
    assert outcome.reason.startswith("early stopping")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000008"]
    again = train(tmp_path, actions=actions, early_stopping=EarlyStopping(evaluation="val", patience=2, delta=0.1))
    assert (again, last) == (outcome, [8])


def test_a_plateau_keeps_its_rate(tmp_path: Path) -> None:
    losses = falling({1: 3.0, 2: 3.0, 3: 3.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 2.0, 8: 2.0, 9: 2.0, 10: 2.0})
    schedule = ReduceOnPlateau(evaluation="val", factor=0.5, patience=1, min_fraction=0.25)
    with pytest.raises(RuntimeError):
        train(tmp_path, actions=[Action(1, False, losses)], schedule=schedule, checkpoints=EVERY_3, dies_after=5)
    train(tmp_path, actions=[Action(1, False, losses)], schedule=schedule, checkpoints=EVERY_3)
    rates = [line["lr"] / 1e-2 for line in metrics_of(tmp_path) if "lr" in line]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]  # the step after the second idle evaluation


class Exploding:
    """Next-token loss whose gradient, or value, is infinite from some call on."""

    def __init__(self, calls: int, what: str) -> None:
        self._inner, self._calls, self._what = NextTokenLoss(), calls, what

    def weight(self, batch: Batch) -> float:
        return self._inner.weight(batch)

    def __call__(self, model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, more = self._inner(model, tokens_BT, targets_BT)
        self._calls -= 1
        if self._calls >= 0:
            return loss, more
        return (loss * math.nan if self._what == "loss" else loss + (loss - loss.detach()) * 3e38 * 3e38), more


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_loss_or_gradient_that_is_not_finite_trains_on(tmp_path: Path, what: str) -> None:
    with pytest.raises(Diverged, match=f"the {what} is not finite") as caught:
        train(tmp_path, objective=Exploding(4, what))
    batch = counting().batches(4)
    assert "step 5:" in str(caught.value)
    assert ", ".join(map(str, batch.window_ids)) in str(caught.value)
    assert "\n" not in str(caught.value)
    facts = json.loads((tmp_path / "diverged.json").read_text())
    assert (facts["step"], facts["window_ids"]) == (5, batch.window_ids.tolist())
    assert caught.value.exit_code == 1
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_steps(tmp_path: Path, number: signal.Signals) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"

    def interrupt(step: int) -> dict[str, float]:
        if not stopped.joinpath("checkpoints").exists():
            os.kill(os.getpid(), number)
        return {}

    train(whole, checkpoints=EVERY_3, actions=[Action(2, False, lambda step: {})])
    before = signal.getsignal(number)
    outcome = train(stopped, checkpoints=EVERY_3, actions=[Action(2, False, interrupt)])
    assert (outcome.state, outcome.step, outcome.signal) == ("stopped", 2, number)
    assert signal.getsignal(number) == before
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-000002"]
    assert train(stopped, checkpoints=EVERY_3, actions=[Action(2, False, interrupt)]).state == "done"
    same_run(whole, stopped)


def test_a_second_run_trains_again(tmp_path: Path) -> None:
    train(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train(tmp_path, dies_after=0).state == "done"
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_metrics_that_were_cut_are_continued(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train(tmp_path, checkpoints=EVERY_3, dies_after=4)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: 0 bytes found, but the checkpoint was made after"):
        train(tmp_path, checkpoints=EVERY_3)


def evaluated(path: Path, fsyncs: int = 0) -> None:
    """A run with checkpoints and evaluations, killed at an fsync: inside a checkpoint, or right before or after one."""
    if fsyncs:
        os.fsync = counting_down(fsyncs)
    evaluate = Action(2, True, lambda step: {"evaluation/val/loss": 1 / (step + 1)})
    train(path, checkpoints=EVERY_3, actions=[evaluate])


def counting_down(calls: int) -> Callable[[int], None]:
    """os.fsync, and SIGKILL after so many calls."""
    left, fsync = [calls], os.fsync

    def count(descriptor: int) -> None:
        fsync(descriptor)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


@pytest.mark.parametrize(
    "fsyncs", [pytest.param(calls, marks=[] if calls == 16 else [pytest.mark.slow]) for calls in range(1, 49)]
)
def test_a_killed_run_ends_elsewhere(tmp_path: Path, whole: Path, fsyncs: int) -> None:
    """SIGKILL at each fsync in turn: 12 a checkpoint, of its files, their folder, the manifest, and the metrics."""
    assert on_ranks(1, evaluated, tmp_path, fsyncs, may_fail=True) == [-signal.SIGKILL]
    on_ranks(1, evaluated, tmp_path)
    same_run(whole, tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    on_ranks(1, evaluated, folder)
    return folder
