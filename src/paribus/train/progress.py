"""The progress of training on stderr: one bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
REFRESH_S = 0.1  # a bar redrawn more often only costs time


class Meter:
    """Shows where a run of `total` steps is. On ranks other than 0 it shows nothing."""

    def __init__(self, total: int, start: int, *, is_on: bool, bar: bool) -> None:
        self._total, self._start, self._is_on = total, start, is_on
        self._began = self._shown = time.perf_counter()
        self._bar = _bar() if is_on and bar and sys.stderr.isatty() else None

    def __enter__(self) -> "Meter":
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._total, completed=self._start, facts="")
        return self

    def show(self, step: int, loss: float, lr: float, tokens_per_s: float) -> None:
        now = time.perf_counter()
        if not self._is_on or (now - self._shown < (REFRESH_S if self._bar else LINE_EVERY_S) and step < self._total):
            return
        self._shown = now
        facts = f"loss {loss:.4f}  lr {lr:.2e}  {tokens_per_s:,.0f} tokens/s"
        if self._bar:
            self._bar.update(self._task, completed=step, facts=facts)
        else:
            left_s = (now - self._began) / max(1, step - self._start) * (self._total - step)
            print(f"step {step}/{self._total}  {facts}  {left_s:,.0f} s left", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
