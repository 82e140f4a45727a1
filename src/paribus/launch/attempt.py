"""One attempt at a job on a machine of a cluster: the command, its output in log.txt, its threads, and its end.

As a program it is what a Slurm array executes: `python -m paribus.launch.attempt FOLDER` carries out the task of
FOLDER/tasks.json that SLURM_ARRAY_TASK_ID names, and leaves its exit code in FOLDER/exit-INDEX.json, or requeues it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from paribus.launch.jobs import log_attempt, thread_limits
from paribus.rundir import RunDir, write_json

OWN_STOP = signal.SIGINT  # the launcher's own: to this program alone, and for good
TIME_IS_UP = signal.SIGUSR1  # from Slurm, to this program alone, some time before the limit
# Becomes the command. 1: PR_SET_PDEATHSIG of prctl(2); between fork and exec it would not be safe in a process with threads.
_BECOME = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
_STOP_WITH_PARENT = (sys.executable, "-S", "-c", _BECOME) if sys.platform == "linux" else ()
_POLL_S = 0.2


def begin(run: RunDir, command: Sequence[str], threads: int, cwd: str) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, with stdout and stderr appended to the run's log.txt.

    It gets SIGTERM when this process is killed: the run is then free for the next attempt."""
    log_attempt(run, command)
    with run.log_path.open("ab") as log:
        return subprocess.Popen(
            [*_STOP_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env={**os.environ, **thread_limits(threads)},
            start_new_session=True,
        )


def in_ray_task(run: str, command: Sequence[str], threads: int, cwd: str) -> int:
    """Carry out the command; `ray.cancel`, a KeyboardInterrupt here, lets it write a checkpoint. Returns its exit code."""
    process = begin(RunDir(run), command, threads, cwd)
    while True:
        try:
            while process.poll() is None:  # an interrupt that Ray simulates would not end a plain wait
                _sleep_until_end(process)
            return process.returncode
        except KeyboardInterrupt:
            process.terminate()


def _sleep_until_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return


# --- the task of a Slurm array -----------------------------------------------------------------------------------------


def exit_path(folder: Path, index: int) -> Path:
    return folder / f"exit-{index}.json"


def _main(folder: Path) -> int:
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGTERM and process is not None:  # Slurm sends SIGTERM to all processes of the job itself
            process.terminate()

    process: subprocess.Popen[bytes] | None = None
    for number in (OWN_STOP, TIME_IS_UP, signal.SIGTERM):
        signal.signal(number, stop)
    index = int(os.environ["SLURM_ARRAY_TASK_ID"])
    task = json.loads((folder / "tasks.json").read_text())[index]
    run = RunDir(task["run"])
    exit_path(folder, index).unlink(missing_ok=True)  # of the turn before
    before = _progress(run.status())
    if received:
        code = -received[0]
    else:
        process = begin(run, task["command"], task["threads"], str(Path.cwd()))
        if received:  # between the two lines above
            process.terminate()
        code = process.wait()
    if TIME_IS_UP in received and OWN_STOP not in received and not run.is_done and _may_go_on(run, before, task):
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        return 128 + TIME_IS_UP
    code = code if code >= 0 else 128 - code
    write_json(exit_path(folder, index), {"code": code})
    return code


def _progress(status: Mapping[str, Any]) -> tuple[int, int] | None:
    """The round and the step in it, which begins anew in each round of a program that searches; None before the first."""
    return (status.get("round", 0), status["step"]) if "step" in status else None


def _may_go_on(run: RunDir, before: tuple[int, int] | None, task: dict[str, Any]) -> bool:
    """Whether another turn is worth it: one in which no step was done would be followed by the same one for ever."""
    status = run.status()
    if status.get("state") != "stopped":
        return False
    if before is None or _progress(status) != before:
        return True
    with run.lock():
        run.set_status(
            "failed", f"launch.slurm.time_limit_min: {task['time_limit_min']} min were over before one step was done"
        )
    return False


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
