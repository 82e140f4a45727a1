"""A sweep on this machine: a pool of processes, one for each run, until every run is done or has failed."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Collection, Mapping, Sequence

from paribus.grid import programs
from paribus.grid.config import GridRun
from paribus.launch.grid import AnyRun
from paribus.launch.jobs import Job, SweepResult, log_attempt, make_jobs, num_cores, thread_limits
from paribus.launch.nursery import Nursery, has_gpu_driver
from paribus.launch.pool import carry_out, started
from paribus.run_config import RunConfig
from paribus.train.jax_grid.extra import require_jax

# what every `paribus train` imports; nothing of it starts a thread
PRELOAD = ("paribus.train.loop", "paribus.models.hf", "transformers.models.gpt_neox.modeling_gpt_neox", "torch._dynamo")
PRELOAD_GRID = ("paribus.train.jax_grid.program", "paribus.cli", "paribus.experiment")  # not polars: it starts threads
# what programs of one shape, say of several seeds, share for the length of a sweep: compiling is most of a small one's time
SHARE_COMPILED = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def sweep(configs: Sequence[AnyRun], max_parallel: int | None = None, progress: bool = True) -> SweepResult:
    """Train every run that is not done yet, `max_parallel` at a time (default: `default_parallel`).

    Unfinished runs are resumed. A run that another process holds is left to it and waited for. A run that fails stops no
    other. SIGINT and SIGTERM let the running ones write a checkpoint and stop.
    Raises what `make_jobs` raises, before anything is trained."""
    if any(isinstance(config, GridRun) for config in configs):
        require_jax()
    parallel = max_parallel or default_parallel(configs)
    preload = PRELOAD if any(isinstance(config, RunConfig) for config in configs) else PRELOAD_GRID
    return run_jobs(make_jobs(configs, lambda _launch: max(1, num_cores() // parallel)), parallel, progress, preload)


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
    return carry_out(jobs, _Processes(preload, max(1, num_cores() // max_parallel)), max_parallel, progress)


class _Processes:
    """`Workers` on this machine."""

    outlived_by = ""

    def __init__(self, preload: Sequence[str], share: int) -> None:
        self._compiled = contextlib.ExitStack()
        self._environment = dict(os.environ)
        if preload == PRELOAD_GRID and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            folder = tempfile.TemporaryDirectory(prefix="paribus-compiled-", ignore_cleanup_errors=True)
            self._environment |= {"JAX_COMPILATION_CACHE_DIR": self._compiled.enter_context(folder), **SHARE_COMPILED}
        self._nursery, self._share = Nursery(preload, self._environment), share

    def adopts(self, job: Job) -> bool:
        return False  # they stop with the launcher that began them

    def start(self, jobs: Sequence[Job]) -> Sequence[str]:
        lines = [started(job) for job in jobs]
        for job in jobs:
            log_attempt(job.run, job.command)
            environment = {**self._environment, **thread_limits(job.threads or self._share)}
            self._nursery.start(str(job.run.path), job.command, job.run.log_path, environment)
        return lines

    def running(self) -> Collection[str]:
        return self._nursery.living

    def ended(self, timeout_s: float) -> Mapping[str, int]:
        return self._nursery.ended(timeout_s)

    def stop(self) -> None:
        self._nursery.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._nursery.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self._nursery.close()
        self._compiled.close()
