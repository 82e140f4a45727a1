"""The progress of a sweep on stderr: bars on a terminal, a line for each event elsewhere."""

import sys
import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from paribus.launch.jobs import Ending, SweepResult, log_tail
from paribus.launch.status import duration, view
from paribus.rundir import RunDir

_REFRESH_S = 0.5


class Display:
    """One bar for the sweep, one line for each run that is being trained."""

    def __init__(self, num_runs: int, *, is_on: bool) -> None:
        self._console = Console(stderr=True, quiet=not is_on, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[position]}"),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=self._console) if is_on and self._console.is_terminal else None
        self._num_runs, self._ended, self._last = num_runs, 0, 0.0
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Display":
        if self._bars:
            self._bars.start()
            self._all = self._bars.add_task(
                "[bold]runs", total=self._num_runs, position=f"0/{self._num_runs}", facts=""
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def ended(self, ending: Ending) -> None:
        """A run, or a program of many, left the sweep."""
        run, state, reason, seconds, num_runs = ending
        self._ended += num_runs
        look = view(run)
        programs = f" ({num_runs:,} runs)" if num_runs > 1 else ""
        facts = [f"step {look.position}"] if look.position else []
        facts += [f"loss {look.loss:.4f}"] if look.loss is not None else []
        facts += [duration(seconds)] if seconds else ["already"] if state == "done" else []
        facts += [reason] if reason and state != "done" else []
        self.say(
            f"[{self._ended}/{self._num_runs}] {run.path.name}{programs}: {state}"
            + "".join(f", {fact}" for fact in facts)
        )
        if self._bars:
            if run.path.name in self._tasks:
                self._bars.remove_task(self._tasks.pop(run.path.name))
            self._bars.update(self._all, completed=self._ended, position=f"{self._ended}/{self._num_runs}")

    def confirms(self, question: str) -> bool:
        """Ask the person at the terminal; where nobody can answer, the answer is yes."""
        if self._bars is None or not sys.stdin.isatty():
            return True
        self._bars.stop()
        try:
            return self._console.input(f"{question} [Y/n] ", markup=False).strip().lower() not in ("n", "no")
        except EOFError:
            return False
        finally:
            self._bars.start()

    def show(self, active: Iterable[RunDir], num_queued: int = 0) -> None:
        """Redraw the lines of the runs being trained; cheap when called too often."""
        if self._bars is None or time.monotonic() - self._last < _REFRESH_S:
            return
        self._last = time.monotonic()
        views = {run.path.name: view(run) for run in active}
        self._bars.update(self._all, facts=f"{len(views)} running, {num_queued} queued" if num_queued else "")
        for name in self._tasks.keys() - views.keys():
            self._bars.remove_task(self._tasks.pop(name))
        for name, look in views.items():
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(f"  {name}", total=None, position="", facts="")
            loss = "" if look.loss is None else f"loss {look.loss:.4f}  "
            left = "" if look.left_s is None else f"{duration(look.left_s)} left"
            self._bars.update(
                self._tasks[name],
                completed=look.step or 0,
                total=look.num_steps,
                position=look.position,
                facts=loss + left,
            )

    def explain(self, result: SweepResult) -> None:
        """Name what failed, with the last lines of its log."""
        for ending in result.of("failed", "diverged"):
            self.say(f"\n{ending.run.path}: {ending.state}: {ending.reason}\n  the end of {ending.run.log_path}:")
            self.say("\n".join(f"  | {line}" for line in log_tail(ending.run)))
