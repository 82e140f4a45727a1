"""Which checkpoints are written and which are kept: pure decisions, whose state is part of every checkpoint."""

import math
from typing import NamedTuple

from paribus.train.config import Checkpoints


class Retention(NamedTuple):
    """What has been decided so far."""

    average: float = 0.0  # exponential average of the validation loss, not yet bias-corrected
    num_losses: int = 0  # in the average
    best: tuple[tuple[float, int], ...] = ()  # (smoothed loss, step) of the k best, best first
    reference: float | None = None  # the smoothed loss at the last geometric improvement
    improvements: tuple[int, ...] = ()  # the steps of those
    intervals: tuple[int, ...] = ()  # the steps of `every` that are kept
    ends: tuple[int, ...] = ()  # the initial and the final step

    def observe(self, config: Checkpoints, step: int, loss: float) -> "Retention":
        """Take in the validation loss of a step. One that is not finite is left out: it would never leave the average.

        The average is s = b s + (1 - b) loss, and its bias-corrected value s / (1 - b**n) (Kingma & Ba 2015, section 3)."""
        if not math.isfinite(loss):
            return self
        beta, num_losses = config.best_smoothing, self.num_losses + 1
        average = beta * self.average + (1 - beta) * loss
        smoothed = average / (1 - beta**num_losses)
        state = self._replace(average=average, num_losses=num_losses)
        if config.best:
            state = state._replace(best=tuple(sorted([*self.best, (smoothed, step)])[: config.best]))
        if config.improvement and (self.reference is None or smoothed < config.improvement * self.reference):
            state = state._replace(reference=smoothed, improvements=(*self.improvements, step))
        return state

    def decide(self, config: Checkpoints, step: int, *, is_last: bool, first: int = 0) -> "Retention":
        """Take in that a step is over: it may be one of `every`, the initial or the final one. first: the run's."""
        state = self
        if is_last or (step == first and config.initial):
            state = state._replace(ends=(*self.ends, step))
        if config.every and step != first and step % config.every == 0:
            state = state._replace(intervals=(*self.intervals, step)[-config.keep_last :])  # [-0:] keeps all
        return state

    def keeps(self) -> set[int]:
        """The steps whose checkpoints are kept. A step is in it from the moment it is decided, so it is also written."""
        return {*(step for _, step in self.best), *self.improvements, *self.intervals, *self.ends}


def from_json(value: dict[str, object]) -> Retention:
    """The inverse of `_asdict` through JSON, which turns tuples into lists."""
    return Retention(**{name: _tuples(item) for name, item in value.items()})  # type: ignore[arg-type]


def _tuples(item: object) -> object:
    return tuple(map(_tuples, item)) if isinstance(item, list) else item
