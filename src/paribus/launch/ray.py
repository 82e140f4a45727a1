"""A sweep as tasks of a Ray cluster: one that is there already, or one on this machine for as long as the sweep takes."""

import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paribus.errors import ConfigError, MissingExtra, RunError
from paribus.experiment import variables
from paribus.launch.attempt import in_ray_task
from paribus.launch.jobs import Job, SweepResult, num_cores
from paribus.launch.pool import CANCELLED, KILLED, carry_out, started
from paribus.rundir import RunDir
from paribus.train.cluster import RayConfig

GIB = 1 << 30
CONNECT_TIMEOUT_S = 10.0
# Of a cluster of our own: no token in the home folder, no reports, and GPUs stay hidden from tasks that ask for none.
_OWN = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}


def run_jobs(jobs: Sequence[Job], max_parallel: int | None = None, progress: bool = True) -> SweepResult:
    """Hand every job that is not done to Ray, which starts as many at once as the cluster's resources allow.

    max_parallel: at most so many at once. Raises what `reach` raises."""
    ray = reach(jobs)
    try:
        return carry_out(jobs, _Tasks(ray), max_parallel or max(1, len(jobs)), progress)
    finally:
        ray.shutdown()


def reach(jobs: Sequence[Job]) -> Any:
    """What `connect` returns and raises; RunError for a job that no node could carry."""
    ray = connect([job.ray for job in jobs])
    try:
        _refuse_too_big(ray, jobs)
    except RunError:
        ray.shutdown()
        raise
    return ray


def connect(sections: Sequence[RayConfig]) -> Any:
    """The library, connected to the cluster of the runs; once a process.

    Raises MissingExtra without Ray, ConfigError when the cluster is not reachable or the runs name several."""
    addresses = {section.address for section in sections}
    if len(addresses) > 1:
        told = ", ".join(sorted(address or "null" for address in addresses))
        raise ConfigError(f"launch.ray.address: one cluster for all runs is expected, found {told}")
    try:
        import ray
    except ImportError:
        raise MissingExtra("--on ray needs the library ray: pip install 'paribus[ray]'") from None
    if ray.is_initialized():
        return ray
    address = addresses.pop() if addresses else None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        with variables(_OWN):
            ray.init(address="local", num_cpus=num_cores(), include_dashboard=False, **quiet)
        return ray
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()
        raise ConfigError(
            f"launch.ray.address: no Ray cluster is reachable at {address}: {said[0] if said else type(error).__name__}; "
            "`ray start --head` starts one, null makes one for the sweep"
        ) from None
    return ray


def _knock(address: str) -> None:
    """Raise OSError when nobody listens at HOST:PORT: Ray itself tries for five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


def _refuse_too_big(ray: Any, jobs: Sequence[Job]) -> None:
    """Raise RunError for a job that would wait for ever: no node is big enough, and ours gets no others."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for job in jobs:
        if job.ray.address is not None:  # it may grow
            return
        needs = _needs(job)
        wanted = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": needs["memory"] or 0}
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
            raise RunError(f"{job.run.path}: asks for {asked}: more than this machine has; lower launch.ray")


def _needs(job: Job) -> dict[str, Any]:
    memory = None if job.ray.memory_gib is None else int(job.ray.memory_gib * GIB)
    gpus = job.gpus if job.ray.gpus is None else job.ray.gpus
    return {"num_cpus": job.ray.cpus or job.cpus, "num_gpus": gpus, "memory": memory}


class _Task(NamedTuple):
    run: RunDir
    log_bytes: int  # of the run's log before: the first thing that a task does is to begin an attempt in it


class _Tasks:
    """`Workers` on a Ray cluster: each a task that executes the command as a process of its own."""

    outlived_by = ""  # Ray ends the tasks of a driver that is gone

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._task = ray.remote(max_retries=0)(in_ray_task)
        self._tasks: dict[Any, _Task] = {}

    def adopts(self, job: Job) -> bool:
        return False

    def start(self, jobs: Sequence[Job]) -> Sequence[str]:
        lines = [started(job) for job in jobs]
        for job in jobs:
            needs = _needs(job)
            task = self._task.options(name=job.run.path.name, **needs)
            arguments = (
                str(job.run.path.resolve()),
                list(job.command),
                job.threads or needs["num_cpus"],
                str(Path.cwd()),
            )
            before = _log_bytes(job.run)
            self._tasks[task.remote(*arguments)] = _Task(job.run, before)
        return lines

    def running(self) -> Collection[str]:
        return [str(run.path) for run, before in self._tasks.values() if _log_bytes(run) > before]

    def ended(self, timeout_s: float) -> Mapping[str, int]:
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=timeout_s)
        more, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if ready else ([], [])
        runs = {task: self._tasks.pop(task).run for task in more or ready}
        return {str(run.path): self._code(task, run) for task, run in runs.items()}

    def stop(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=False, recursive=False)

    def kill(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True, recursive=False)

    def close(self) -> None:
        return

    def _code(self, task: Any, run: RunDir) -> int:
        """The exit code of the command, or how its task ended without one."""
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(task))
        except errors.TaskCancelledError:
            return CANCELLED
        except errors.RayTaskError as error:  # our own code raised
            with run.log_path.open("a") as log:
                print(f"--on ray: the command did not begin: {str(error).strip().splitlines()[-1]}", file=log)
            return 1
        except errors.RayError:  # the worker, or its node, died
            return KILLED


def _log_bytes(run: RunDir) -> int:
    return run.log_path.stat().st_size if run.log_path.exists() else 0
