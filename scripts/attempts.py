"""Attempts of kill_test.py and kill_grid.py: each is a fork of its own, which begins in milliseconds, and has a log."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

LOG = "log.txt"


def begin(folder: Path, work: Callable[[], object]) -> int:
    """Do `work` in a new process, whose output goes to the log in `folder`; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        work()
        os._exit(0)
    except BaseException as error:  # the child must never return into the parent's code
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def await_end(folder: Path, pid: int) -> None:
    """Let an attempt come to its end; leave with the end of its log where it failed."""
    _, status = os.waitpid(pid, 0)
    if status != 0:
        sys.exit(f"{folder}: an attempt failed:\n{(folder / LOG).read_text()[-2000:]}")
