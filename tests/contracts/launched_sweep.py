"""A sweep in a process of its own: `python launched_sweep.py PLACE FOLDER PARALLEL BEHAVIOUR ...`, runs as in fake_run.

PLACE: local, slurm, ray, or ray:ADDRESS. The last line of stdout is how it ended, the exit code that of the sweep."""

import sys
from collections.abc import Sequence
from pathlib import Path

from paribus.launch.jobs import Job, SweepResult
from paribus.rundir import RunDir
from paribus.train.cluster import RayConfig, SlurmConfig


def jobs(folder: Path, behaviours: Sequence[str], address: str | None = None) -> list[Job]:
    """One run for each behaviour, named after it."""
    made = []
    slurm = SlurmConfig(time_limit_min=10)
    for number, behaviour in enumerate(behaviours):
        run = RunDir(folder / f"{behaviour}-{number:08x}")
        run.path.mkdir(exist_ok=True)
        command = sys.executable, "-m", "fake_run", str(run.path), behaviour
        made.append(Job(run, command, 1, slurm=slurm, ray=RayConfig(address=address)))
    return made


def launch(place: str, todo: Sequence[Job], parallel: int | None, progress: bool = False) -> SweepResult:
    kind, _, _address = place.partition(":")
    if kind == "slurm":
        from paribus.launch import slurm

        return slurm.run_jobs(todo, parallel, progress, poll_s=0.3)
    if kind == "ray":
        from paribus.launch import ray

        return ray.run_jobs(todo, parallel, progress)
    from paribus.launch import local

    return local.run_jobs(todo, parallel or 2, progress, preload=())


if __name__ == "__main__":
    place, folder, parallel, *behaviours = sys.argv[1:]
    address = place.partition(":")[2] or None
    result = launch(place, jobs(Path(folder), behaviours, address), int(parallel), progress=True)
    print(result.line())
    sys.exit(result.exit_code)
