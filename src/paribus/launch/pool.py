"""What every launcher does with its jobs, wherever they execute: until every run is done, has failed or was stopped."""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from paribus.errors import RunError
from paribus.launch.display import Display
from paribus.launch.jobs import Ending, Job, SweepResult, log_tail
from paribus.rundir import RunDir
from paribus.train.signals import Interrupts

MAX_KILLS = 2  # a run that is killed, say for memory, is begun again once
TICK_S = 0.2
KILLED, CANCELLED = -signal.SIGKILL, 128 + signal.SIGTERM  # the code of a command on a cluster that left none


class Workers(Protocol):
    """Where commands execute. A job's key is the path of its run; each command writes to its run's log.txt."""

    outlived_by: str  # what its commands go on in when this process ends; "" where they end with it

    def adopts(self, job: Job) -> bool:
        """Whether an earlier launcher's command for this run waits or runs here still; `ended` tells of it from now on."""

    def start(self, jobs: Sequence[Job]) -> Sequence[str]:
        """Begin the commands, or queue them; what a person is told of it. Raises ParibusError when they are refused."""

    def running(self) -> Collection[str]:
        """The keys of what has begun; the others of those started wait for their turn."""

    def ended(self, timeout_s: float) -> Mapping[str, int]:
        """Commands that ended since the last call, waiting for the first of them; return codes as in `subprocess`."""

    def stop(self) -> None:
        """Ask each command to write a checkpoint and stop; what has not begun never begins."""

    def kill(self) -> None:
        """End each command at once."""

    def close(self) -> None:
        """Leave nothing behind that is not meant to outlive this process."""


def carry_out(jobs: Sequence[Job], workers: Workers, max_parallel: int, progress: bool) -> SweepResult:
    """Carry out the jobs, `max_parallel` of them at a time, and close the workers."""
    with Interrupts() as interrupts, Display(sum(job.num_runs for job in jobs), is_on=progress) as display:
        pool = _Pool(jobs, max_parallel, workers, display)
        try:
            while not pool.is_empty:
                if interrupts.received is not None and not pool.is_stopping:
                    pool.stop(interrupts.received)
                pool.fill()
                pool.wait(TICK_S)
        except KeyboardInterrupt:
            workers.kill()
            raise
        finally:
            workers.close()
    result = SweepResult(tuple(pool.endings[str(job.run.path)] for job in jobs), interrupts.received or 0)
    display.explain(result)
    return result


class _Active(NamedTuple):
    job: Job
    start: float
    status: dict[str, Any]  # before the command began


class _Pool:
    """The jobs of a sweep, each waiting, active or ended."""

    def __init__(self, jobs: Sequence[Job], max_parallel: int, workers: Workers, display: Display) -> None:
        self._waiting = deque(jobs)
        self._active: dict[str, _Active] = {}
        self._held: set[str] = set()  # by other processes, when last seen
        self._kills: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._max_parallel, self._workers, self._display = max_parallel, workers, display
        self.endings: dict[str, Ending] = {}
        self._stopped_by: signal.Signals | None = None

    @property
    def is_stopping(self) -> bool:
        return self._stopped_by is not None

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._active

    def fill(self) -> None:
        """Start what is free, as far as there is room."""
        starting = []
        for _ in range(len(self._waiting)):
            if len(self._active) >= self._max_parallel:
                break
            job = self._waiting.popleft()
            key, run = str(job.run.path), job.run
            if run.is_done:
                self._end(job, "done")
            elif self._workers.adopts(job):
                self._display.say(f"{run.path.name}: queued already, watched from now on")
                self._activate(job)
            elif run.is_locked():
                self._leave(job)
            elif key in self._held and run.status().get("state") in ("failed", "diverged"):
                self._end(job, run.status()["state"], f"in another process: {run.status()['reason']}")
            else:
                self._activate(job)
                starting.append(job)
        for line in self._workers.start(starting) if starting else ():
            self._display.say(line)

    def wait(self, timeout_s: float) -> None:
        """Wait for a command to end, and settle what did."""
        if not self._active:  # all that is left is held by other processes
            time.sleep(timeout_s if self._waiting else 0)
            return
        for key, code in self._workers.ended(timeout_s).items():
            active = self._active.pop(key)
            self._seconds[key] = self._seconds.get(key, 0.0) + time.monotonic() - active.start
            status = active.job.run.status()
            self._settle(active.job, code, status if status != active.status else {})
        running = self._workers.running()
        begun = [active.job.run for key, active in self._active.items() if key in running]
        self._display.show(begun, len(self._active) - len(begun))

    def stop(self, number: signal.Signals) -> None:
        """Ask the active ones to checkpoint and stop, unless they may go on without us; begin nothing more."""
        self._stopped_by = number
        place = self._workers.outlived_by
        question = f"Cancel the {len(self._active)} jobs in {place}, each after a checkpoint?"
        if place and self._active and number == signal.SIGINT and not self._display.confirms(question):
            for active in self._active.values():
                self._end(active.job, "stopped", f"goes on in {place}; the same command watches it again")
            self._active.clear()
        else:
            self._display.say(
                f"{number.name}: {len(self._active)} running, each writes a checkpoint (Ctrl-C again kills)"
            )
            self._workers.stop()
        while self._waiting:
            job = self._waiting.popleft()
            self._end(job, *(("done", "") if job.run.is_done else ("stopped", "not begun")))

    def _activate(self, job: Job) -> None:
        self._active[str(job.run.path)] = _Active(job, time.monotonic(), job.run.status())

    def _settle(self, job: Job, code: int, status: Mapping[str, Any]) -> None:
        """Decide what the end of a command means for its run. status: as the command left it, {} if it wrote none."""
        run = job.run
        if run.is_done:
            self._end(job, "done")
        elif self.is_stopping:
            self._end(job, "stopped", self._reason(run, status) if status.get("state") == "stopped" else "")
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

    def _reason(self, run: RunDir, status: Mapping[str, Any]) -> str:
        """Why a run stopped, by the signal that this process got: the commands are sent SIGTERM, whichever it was.

        The run's status is put right too, unless another process has taken the run meanwhile."""
        assert self._stopped_by is not None
        told = str(status["reason"])
        reason = told.replace(signal.SIGTERM.name, self._stopped_by.name)
        if reason != told:
            with contextlib.suppress(RunError), run.lock():
                if run.status() == status:
                    facts = {key: value for key, value in status.items() if key not in ("state", "reason", "updated")}
                    run.set_status("stopped", reason, **facts)
        return reason

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
        ending = Ending(job.run, state, reason, seconds, job.num_runs)  # type: ignore[arg-type]
        self.endings[str(job.run.path)] = ending
        self._display.ended(ending)


def started(job: Job) -> str:
    """What a person is told when a command begins."""
    return f"{job.run.path.name}: {'resumed' if job.run.metrics_path.exists() else 'started'}"


def _signal_of(code: int) -> signal.Signals | None:
    """The signal that ended a process: -n as Popen tells it, 128 + n as a shell and torchrun pass it on."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number) if number in {int(one) for one in signal.Signals} else None
