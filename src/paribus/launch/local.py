"""A sweep on this machine: a pool of processes, one for each run, until every run is done or has failed."""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paribus.errors import RunError
from paribus.grid import programs
from paribus.grid.config import GridRun
from paribus.launch.display import Display
from paribus.launch.grid import AnyRun
from paribus.launch.jobs import Ending, Job, SweepResult, log_attempt, log_tail, make_jobs, num_cores, thread_limits
from paribus.launch.nursery import Nursery, has_gpu_driver
from paribus.run_config import RunConfig
from paribus.train.signals import Interrupts

# what every `paribus train` imports; nothing of it starts a thread
PRELOAD = ("paribus.train.loop", "paribus.models.hf", "transformers.models.gpt_neox.modeling_gpt_neox", "torch._dynamo")
PRELOAD_GRID = ("paribus.grid.run", "paribus.train.jax_grid.program")
MAX_KILLS = 2  # a run that is killed, say for memory, is begun again once
TICK_S = 0.2


def sweep(configs: Sequence[AnyRun], max_parallel: int | None = None, progress: bool = True) -> SweepResult:
    """Train every run that is not done yet, `max_parallel` at a time (default: `default_parallel`).

    Unfinished runs are resumed. A run that another process holds is left to it and waited for. A run that fails stops no
    other. SIGINT and SIGTERM let the running ones write a checkpoint and stop.
    Raises what `make_jobs` raises, before anything is trained."""
    parallel = max_parallel or default_parallel(configs)
    preload = PRELOAD if any(isinstance(config, RunConfig) for config in configs) else PRELOAD_GRID
    return run_jobs(make_jobs(configs, max(1, num_cores() // parallel)), parallel, progress, preload)


def default_parallel(configs: Sequence[AnyRun]) -> int:
    """As many runs at once as there are cores for, one on a machine whose GPU some run may use.

    A rank asks for `launch.threads` cores, or one: side by side, two micro models with a thread each took 63 ms a step on
    two busy cores, and one after the other with two threads each, which wait for one another, 1,450 ms."""
    trained = [config for config in configs if isinstance(config, RunConfig)]
    num_programs = len(programs.group([config for config in configs if isinstance(config, GridRun)]))
    if has_gpu_driver() and (num_programs or any(config.launch.device != "cpu" for config in trained)):
        return 1
    most = max((config.launch.num_processes * (config.launch.threads or 1) for config in trained), default=1)
    return max(1, min(num_cores() // most, len(trained) + num_programs))


def run_jobs(
    jobs: Sequence[Job], max_parallel: int, progress: bool = True, preload: Sequence[str] = PRELOAD
) -> SweepResult:
    """Carry out the commands; each writes to its run's log.txt and gets its share of the cores."""
    nursery = Nursery(preload)
    with Interrupts() as interrupts, Display(len(jobs), is_on=progress) as display:
        pool = _Pool(jobs, max_parallel, nursery, display)
        try:
            while not pool.is_empty:
                if interrupts.received is not None and not pool.is_stopping:
                    pool.stop(interrupts.received)
                pool.fill()
                pool.wait(TICK_S)
        except KeyboardInterrupt:
            nursery.send_signal(signal.SIGKILL)
            raise
        finally:
            nursery.close()
    result = SweepResult(tuple(pool.endings[str(job.run.path)] for job in jobs), interrupts.received or 0)
    display.explain(result)
    return result


class _Active(NamedTuple):
    job: Job
    start: float
    status: dict[str, Any]  # before the command began


class _Pool:
    """The jobs of a sweep, each waiting, active or ended."""

    def __init__(self, jobs: Sequence[Job], max_parallel: int, nursery: Nursery, display: Display) -> None:
        self._waiting = deque(jobs)
        self._active: dict[str, _Active] = {}
        self._held: set[str] = set()  # by other processes, when last seen
        self._kills: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._max_parallel, self._nursery, self._display = max_parallel, nursery, display
        self.endings: dict[str, Ending] = {}
        self.is_stopping = False

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._active

    def fill(self) -> None:
        """Start what is free, as far as there is room."""
        for _ in range(len(self._waiting)):
            if len(self._active) >= self._max_parallel:
                return
            job = self._waiting.popleft()
            key, run = str(job.run.path), job.run
            if run.is_done:
                self._end(job, "done")
            elif run.is_locked():
                self._leave(job)
            elif key in self._held and run.status().get("state") in ("failed", "diverged"):
                self._end(job, run.status()["state"], f"in another process: {run.status()['reason']}")
            else:
                self._start(job)

    def wait(self, timeout_s: float) -> None:
        """Wait for a command to end, and settle what did."""
        if not self._active:  # all that is left is held by other processes
            time.sleep(timeout_s if self._waiting else 0)
            return
        for key, code in self._nursery.ended(timeout_s).items():
            active = self._active.pop(key)
            self._seconds[key] = self._seconds.get(key, 0.0) + time.monotonic() - active.start
            status = active.job.run.status()
            self._settle(active.job, code, status if status != active.status else {})
        self._display.show(active.job.run for active in self._active.values())

    def stop(self, number: signal.Signals) -> None:
        """Ask the active ones to checkpoint and stop; begin nothing more."""
        self.is_stopping = True
        self._display.say(f"{number.name}: {len(self._active)} running, each writes a checkpoint (Ctrl-C again kills)")
        self._nursery.send_signal(signal.SIGTERM)
        while self._waiting:
            job = self._waiting.popleft()
            self._end(job, *(("done", "") if job.run.is_done else ("stopped", "not begun")))

    def _start(self, job: Job) -> None:
        threads = job.threads or max(1, num_cores() // self._max_parallel)
        log_attempt(job.run, job.command)
        self._active[str(job.run.path)] = _Active(job, time.monotonic(), job.run.status())
        self._nursery.start(str(job.run.path), job.command, job.run.log_path, {**os.environ, **thread_limits(threads)})
        self._display.say(f"{job.run.path.name}: {'resumed' if job.run.metrics_path.exists() else 'started'}")

    def _settle(self, job: Job, code: int, status: Mapping[str, Any]) -> None:
        """Decide what the end of a command means for its run. status: as the command left it, {} if it wrote none."""
        run = job.run
        if run.is_done:
            self._end(job, "done")
        elif self.is_stopping:
            self._end(job, "stopped", status.get("reason", "") if status.get("state") == "stopped" else "")
        elif run.is_locked():
            self._leave(job)
        elif status.get("state") == "stopped":
            self._end(job, "stopped", status["reason"])
        elif number := _signal_of(code):
            self._retry(job, number.name)
        elif status.get("state") in ("failed", "diverged"):
            self._end(job, status["state"], status["reason"])
        else:
            last = log_tail(run, 1)
            self._fail(job, f"exit code {code}: {last[0] if last else 'nothing was said'}")

    def _retry(self, job: Job, name: str) -> None:
        """Begin a killed run again, or give it up."""
        key = str(job.run.path)
        self._kills[key] = self._kills.get(key, 0) + 1
        if self._kills[key] < MAX_KILLS:
            self._display.say(f"{job.run.path.name}: killed by {name}, begun again")
            self._waiting.appendleft(job)
        else:
            self._fail(job, f"killed by {name} {self._kills[key]} times, perhaps for want of memory")

    def _leave(self, job: Job) -> None:
        """Leave a run to the process that holds it, and look again later."""
        if str(job.run.path) not in self._held:
            self._held.add(str(job.run.path))
            self._display.say(f"{job.run.path.name}: in use by another process, waiting for it")
        self._waiting.append(job)

    def _fail(self, job: Job, reason: str) -> None:
        """Record what the run itself could not."""
        with contextlib.suppress(RunError), job.run.lock():
            job.run.set_status("failed", reason)
        self._end(job, "failed", reason)

    def _end(self, job: Job, state: str, reason: str = "") -> None:
        seconds = self._seconds.get(str(job.run.path), 0.0)
        self.endings[str(job.run.path)] = Ending(job.run, state, reason, seconds)  # type: ignore[arg-type]
        self._display.ended(job.run, state, reason, seconds)


def _signal_of(code: int) -> signal.Signals | None:
    """The signal that ended a process: -n as Popen tells it, 128 + n as a shell and torchrun pass it on."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number) if number in {int(one) for one in signal.Signals} else None
