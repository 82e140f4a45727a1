"""Where a sweep executes: the launcher behind `--on`, a function from jobs to how each of them ended."""

from collections.abc import Callable, Sequence
from typing import Literal, assert_never

from paribus.launch import local
from paribus.launch.grid import AnyRun
from paribus.launch.jobs import AnyLaunch, Job, SweepResult, make_jobs
from paribus.train.config import LaunchConfig

Place = Literal["local", "slurm", "ray"]
Cluster = Literal["slurm", "ray"]


def sweep(configs: Sequence[AnyRun], on: Place = "local", max_parallel: int | None = None) -> SweepResult:
    """Train every run that is not done yet, there; what is unfinished is resumed, and a failing run stops no other.

    Raises, before anything is written, what the launcher refuses: a library, a cluster or a partition that is not there,
    and a run that is too big for it."""
    if on == "local":
        return local.sweep(configs, max_parallel)
    refuse_unreachable(make_jobs(configs, _share(on), hold=False), on)
    return launcher(on)(make_jobs(configs, _share(on)), max_parallel)


def launcher(on: Cluster) -> Callable[[Sequence[Job], int | None], SweepResult]:
    """The function that carries out jobs there, so many at once, or as many as the cluster has room for."""
    if on == "slurm":
        from paribus.launch import slurm

        return slurm.run_jobs
    if on == "ray":
        from paribus.launch import ray

        return ray.run_jobs
    assert_never(on)


def refuse_unreachable(jobs: Sequence[Job], on: Cluster) -> None:
    """Raise ParibusError when jobs could not be handed over: the launchers do it too, but their jobs are written by then."""
    if on == "slurm":
        from paribus.launch import slurm

        slurm.refuse_unreachable([job.slurm for job in jobs])
    else:
        from paribus.launch import ray

        ray.reach(jobs)


def scripts(configs: Sequence[AnyRun], on: Place, max_parallel: int | None = None) -> list[str]:
    """What `--dry-run` shows of the launcher itself: the scripts that Slurm would get, nothing elsewhere."""
    if on != "slurm":
        return []
    from paribus.launch import slurm

    jobs = make_jobs(configs, _share(on), hold=False)
    refuse_unreachable(jobs, on)
    return list(slurm.scripts([job for job in jobs if not job.run.is_done], max_parallel))


def _share(on: Cluster) -> Callable[[AnyLaunch], int]:
    """The threads of a run that names none: the CPUs that it asks the cluster for, not this machine's cores."""

    def share(launch: AnyLaunch) -> int:
        asked = launch.slurm.cpus if on == "slurm" else launch.ray.cpus
        return asked or (launch.num_processes if isinstance(launch, LaunchConfig) else 1)

    return share
