"""What runs, what failed and why, what is done: one look at the files of each run below some paths."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from paribus import directories
from paribus.errors import ConfigError, RunError
from paribus.evals.results import failures
from paribus.rundir import RunDir

_TAIL_BYTES = 1 << 14  # of metrics.jsonl and timings.jsonl: some dozens of lines
_REFRESH_S = 1.0
_STYLES = {
    "running": "bold green",
    "done": "green",
    "failed": "red",
    "diverged": "red",
    "unreadable": "red",
    "interrupted": "yellow",
}


class View(NamedTuple):
    """A run as its files show it."""

    path: str
    state: Literal["waiting", "running", "done", "stopped", "interrupted", "failed", "diverged", "unreadable"]
    reason: str
    step: int | None
    num_steps: int | None
    loss: float | None
    age_s: float | None  # since the last sign of life
    left_s: float | None  # of a running one, from its recent pace
    failed_evaluations: Sequence[str] = ()  # a line each
    num_runs: int = 1  # of a program of the grid engine, which is many runs

    @property
    def position(self) -> str:
        return "" if self.step is None else f"{self.step:,}" + (f"/{self.num_steps:,}" if self.num_steps else "")


def look(run: RunDir) -> View:
    """`view` of a run whose files can be read; of another what is wrong with them."""
    if why := directories.trouble(run.path):
        return View(str(run.path), directories.UNREADABLE, why, None, None, None, None, None)
    return view(run)


def view(run: RunDir) -> View:
    """Look at one run. One that says `running` while no process holds it was interrupted: killed, or the machine died."""
    status = run.status()
    state, reason = status.get("state", "waiting"), status.get("reason", "")
    if state == "running" and not run.is_locked():
        state, reason = "interrupted", "its process is gone; the same command goes on"
    lines = _tail(run.metrics_path)
    logged: dict[str, Any] = next((line for line in reversed(lines) if "loss" in line), {})
    step = status.get("step", lines[-1]["step"] if lines else None)
    num_steps = status.get("num_steps", step if state == "done" else None)
    left_s = None
    if state == "running" and step is not None and num_steps is not None and (pace := _seconds_per_step(run)):
        left_s = (num_steps - step) * pace
    failed = failures(run.evals)
    return View(
        str(run.path), state, reason, step, num_steps, logged.get("loss"), _age_s(run), left_s, failed
    )._replace(num_runs=status.get("num_runs", 1))


def find_runs(paths: Sequence[Path]) -> list[RunDir]:
    """The run directories at or below the paths, begun or waiting, k2 before k11. Raises RunError for a path without any."""
    found: dict[Path, None] = {}
    for path in paths:
        below = dict.fromkeys(directories.below(path, waiting=True))
        if not below:
            raise RunError(f"{path}: no run directory here; `paribus train` and `paribus sweep` make them")
        found |= below
    return [RunDir(path) for path in found]


def show_status(paths: Sequence[Path], watch: bool = False, as_json: bool = False) -> None:
    """Print the runs below the paths to stdout: a table, one that follows them until Ctrl-C, or one JSON document."""
    if watch and as_json:
        raise ConfigError("--watch and --json exclude each other; call `paribus status --json` as often as needed")
    if as_json:
        print(json.dumps([look(run)._asdict() for run in find_runs(paths)], indent=1))
        return
    console = Console()
    if not watch:
        views = [look(run) for run in find_runs(paths)]
        console.print(table(views))
        console.print(f"next: {_next(views, paths)}", soft_wrap=True, highlight=False)
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(table([look(run) for run in find_runs(paths)]), refresh=True)
                time.sleep(_REFRESH_S)
    except KeyboardInterrupt:
        return


def table(views: Sequence[View]) -> Table:
    """One row a run; the caption counts the states."""
    counts = Counter(view.state for view in views)
    caption = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    drawn = Table(box=None, pad_edge=False, header_style="bold", caption=caption, caption_justify="left")
    root = directories.common_folder(view.path for view in views)
    drawn.add_column(f"run in {root}", overflow="fold")
    drawn.add_column("state")
    for heading in ("step", "loss", "left", "last sign"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("reason", overflow="fold")
    for v in views:
        drawn.add_row(
            os.path.relpath(v.path, root) + (f" ({v.num_runs:,} runs)" if v.num_runs > 1 else ""),
            f"[{_STYLES.get(v.state, 'dim')}]{v.state}[/]",
            v.position,
            "" if v.loss is None else f"{v.loss:.4f}",
            duration(v.left_s),
            "" if v.state == "done" or v.age_s is None else f"{duration(v.age_s)} ago",
            escape(
                "\n".join(
                    [
                        *([v.reason] if v.state not in ("done", "running") or v.num_runs > 1 else []),
                        *v.failed_evaluations,
                    ]
                )
            ),
        )
    return drawn


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`; nothing for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    for big, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {big}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def _next(views: Sequence[View], paths: Sequence[Path]) -> str:
    left = [view for view in views if view.state not in ("done", "running", "unreadable")]
    return f"paribus train {left[0].path}" if left else f"paribus report {' '.join(map(str, paths))}"


def _age_s(run: RunDir) -> float | None:
    """Seconds since the run's files last changed."""
    times = [p.stat().st_mtime for p in (run.metrics_path, run.path / "STATUS.json", run.log_path) if p.exists()]
    return max(0.0, time.time() - max(times)) if times else None


def _seconds_per_step(run: RunDir) -> float | None:
    """The pace of the last intervals, evaluations and checkpoints included."""
    lines = _tail(run.timings_path)
    steps = sum(line["steps"] for line in lines)
    seconds = sum(
        value for line in lines for name, value in line.items() if name.endswith("_s") and name != "tokens_per_s"
    )
    return seconds / steps if steps else None


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last whole lines of a file of JSON lines, which a run may be writing."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return []
    lines = content.split(b"\n")[1 if start else 0 : -1]
    return [json.loads(line) for line in lines]
