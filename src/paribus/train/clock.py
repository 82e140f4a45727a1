"""Where the wall-clock time of training goes; none of it is part of the run's results."""

import time

from paribus.train.state import LoopState

TRAINING = ("data_s", "step_s", "loop_s")


class Clock:
    """Seconds by activity since the last interval: data_s, step_s, actions_s, checkpoint_s, and loop_s for the rest."""

    def __init__(self, state: LoopState) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()
        self._before = (state.step, state.tokens)  # at the start of the interval
        self._start_tokens, self._training_s = state.tokens, 0.0

    def lap(self, activity: str) -> None:
        """Book the time since the previous lap to an activity."""
        now = time.perf_counter()
        self._seconds[activity] = self._seconds.get(activity, 0.0) + now - self._last
        self._training_s += now - self._last if activity in TRAINING else 0.0
        self._last = now

    def tokens_per_s(self, state: LoopState) -> float:
        """Training's own rate since the loop began: evaluations and checkpoints are left out."""
        return (state.tokens - self._start_tokens) / self._training_s

    def interval(self, state: LoopState) -> dict[str, float]:
        """The seconds since the previous interval by activity, the steps they took, and training's tokens a second."""
        self.lap("loop_s")
        steps, tokens = state.step - self._before[0], state.tokens - self._before[1]
        training_s = sum(self._seconds.get(activity, 0.0) for activity in TRAINING)
        values = {"steps": steps, "tokens_per_s": tokens / training_s, **self._seconds}
        self._seconds, self._before = {}, (state.step, state.tokens)
        return values
