"""Slurm's own commands: what the queue holds, and what is asked of it."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from paribus.errors import ConfigError
from paribus.tree import did_you_mean, found

TIMEOUT_S = 60.0  # of one command: a busy controller answers late
_AT_ONCE = 500  # job numbers in one command line
_ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
_FIELDS = "Name:80,ArrayTaskID:16,State:32,exit_code:16,JobArrayID:64"


class Element(NamedTuple):
    """One job of an array, as squeue shows it."""

    number: str  # 17_3
    state: str
    code: int  # as in `subprocess`; 0 while it has not ended

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED

    @property
    def is_waiting(self) -> bool:
        return self.state == "PENDING"


def refuse_unreachable(partitions: Iterable[str | None]) -> None:
    """Raise ConfigError when this machine submits to no Slurm, when its controller is silent, or a partition is unknown."""
    for program in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"--on slurm: no {program} on the PATH; run this on a machine that submits to Slurm, or --on local"
            )
    told = _run(["sinfo", "--noheader", "--format=%R"])
    if told is None or told.returncode:
        said = "no answer" if told is None else (told.stderr.strip().splitlines() or ["no answer"])[-1]
        raise ConfigError(f"--on slurm: Slurm is not reachable: {said}; is its controller up, and SLURM_CONF right?")
    known = list(dict.fromkeys(told.stdout.split()))
    for partition in partitions:
        for name in partition.split(",") if partition is not None else ():
            if name not in known:
                raise ConfigError(
                    f"launch.slurm.partition: found {found(name)}, expected one of this cluster's: "
                    f"{', '.join(known)}{did_you_mean(name, known)}"
                )


def elements(names: Collection[str]) -> dict[tuple[str, int], Element] | None:
    """The jobs of arrays by (name, index), ended ones while Slurm remembers them; None when it does not answer."""
    if not names:
        return {}
    asked = [
        "--noheader",
        "--array",
        "--states=all",
        f"--user={getpass.getuser()}",
        f"--name={','.join(sorted(names))}",
    ]
    told = _run(["squeue", *asked, f"--Format={_FIELDS}"])
    if told is None or told.returncode:
        return None
    rows = [line.split() for line in told.stdout.splitlines()]
    return {
        (name, int(index)): Element(number, state, os.waitstatus_to_exitcode(int(code)))
        for name, index, state, code, number in rows
        if index.isdigit()
    }


def cancel(numbers: Sequence[str], *options: str) -> None:
    """scancel; jobs that ended meanwhile are no mistake."""
    for first in range(0, len(numbers), _AT_ONCE):
        _run(["scancel", "--quiet", *options, *numbers[first : first + _AT_ONCE]])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """A command of Slurm; None when it took too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
