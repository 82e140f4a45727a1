"""What the loop must know to go on from a step: a frozen value, the content of a checkpoint's state.json."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from paribus.train import retention
from paribus.train.config import ReduceOnPlateau, TrainConfig
from paribus.train.engine import StepReport
from paribus.train.retention import Retention
from paribus.train.stopping import Patience, Plateau


class LoopState(NamedTuple):
    """After `step` optimizer steps. Random numbers need no state: each is a function of a seed and the step."""

    step: int = 0
    tokens: int = 0  # targets that a loss was taken on
    skipped: int = 0  # fp16 steps whose gradients overflowed
    epoch_loss: float = 0.0  # sum over the steps of the current epoch
    epoch_steps: int = 0
    finished: str = ""  # why nothing is left to do; empty while something is
    best: Mapping[str, float] = {}  # lowest loss by evaluation
    early: Patience = Patience()
    plateau: Plateau = Plateau()
    retention: Retention = Retention()

    def to_json(self) -> dict[str, Any]:
        nested = {name: getattr(self, name)._asdict() for name in ("early", "plateau", "retention")}
        return {**self._asdict(), "best": dict(self.best), **nested}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LoopState":
        state = cls(**value)  # the three below are still mappings
        return state._replace(
            early=Patience(**value["early"]),
            plateau=Plateau(**value["plateau"]),
            retention=retention.from_json(value["retention"]),
        )


def after_step(state: LoopState, report: StepReport, num_targets: int) -> LoopState:
    return state._replace(
        step=state.step + 1,
        tokens=state.tokens + num_targets,
        skipped=state.skipped + (report.update == "skipped"),
        epoch_loss=state.epoch_loss + report.loss,
        epoch_steps=state.epoch_steps + 1,
    )


def after_evaluation(state: LoopState, config: TrainConfig, metrics: Mapping[str, float]) -> LoopState:
    """Take in an evaluation's metrics: every `evaluation/NAME/loss` is watched by whoever names NAME."""
    for name, loss in losses(metrics):
        state = state._replace(best={**state.best, name: min(loss, state.best.get(name, loss))})
        if config.early_stopping and config.early_stopping.evaluation == name:
            state = state._replace(early=state.early.after(loss, config.early_stopping.delta))
        if isinstance(config.schedule, ReduceOnPlateau) and config.schedule.evaluation == name:
            state = state._replace(plateau=state.plateau.after(loss, config.schedule))
        if config.checkpoints.best_evaluation == name:
            state = state._replace(retention=state.retention.observe(config.checkpoints, state.step, loss))
    return state


def losses(metrics: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """(NAME, loss) of every `evaluation/NAME/loss` among the metrics."""
    for metric, loss in metrics.items():
        kind, _, rest = metric.partition("/")
        name, _, what = rest.rpartition("/")
        if kind == "evaluation" and what == "loss":
            yield name, loss


def finish_reason(state: LoopState, config: TrainConfig, total: int) -> str:
    """Why the run is over, or the empty string."""
    stop = config.early_stopping
    if stop and state.early.waited >= stop.patience:
        return f"early stopping: {state.early.waited} evaluations of {stop.evaluation} without an improvement"
    return "budget reached" if state.step >= total else ""
