"""What every launcher is given and gives back: commands that train run directories, and how each of them ended."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from paribus import experiment
from paribus.grid import programs
from paribus.grid import run as grid_run
from paribus.grid.config import GridRun
from paribus.grid.programs import Placed
from paribus.launch.grid import AnyRun
from paribus.run_config import RunConfig
from paribus.rundir import RunDir
from paribus.train.cluster import RayConfig, SlurmConfig
from paribus.train.config import LaunchConfig
from paribus.train.jax_grid.config import GridLaunch
from paribus.words import counted

AnyLaunch = LaunchConfig | GridLaunch

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",  # PyTorch, MKL's fallback
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",  # numpy
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",  # macOS
    "RAYON_NUM_THREADS",  # tokenizers
    "POLARS_MAX_THREADS",
)
_ATTEMPT = "--- "


class Job(NamedTuple):
    """A run directory and the command that trains it, or goes on with it: exit 0 only when the run is done."""

    run: RunDir
    command: tuple[str, ...]
    threads: int | None = None  # CPU threads a process; None: the launcher's share
    cpus: int = 1  # of all its processes
    gpus: int = 0
    slurm: SlurmConfig = SlurmConfig()  # what it asks of a cluster; its own cpus and gpus overrule those above
    ray: RayConfig = RayConfig()
    num_runs: int = 1  # of a program of the grid engine, which is many runs in one directory


class Ending(NamedTuple):
    """How a launcher left a run. Stopped ones go on with the same command."""

    run: RunDir
    state: Literal["done", "failed", "diverged", "stopped"]
    reason: str = ""
    seconds: float = 0.0  # that this launcher spent on it; 0 for a run that was done already
    num_runs: int = 1


class SweepResult(NamedTuple):
    endings: tuple[Ending, ...]  # in the order of the sweep
    signal: int = 0  # that stopped the sweep

    def of(self, *states: str) -> list[Ending]:
        return [ending for ending in self.endings if ending.state in states]

    @property
    def exit_code(self) -> int:
        """128 + signal when one stopped the sweep, 0 when every run is done, else 1."""
        if self.signal:
            return 128 + self.signal
        return 0 if len(self.of("done")) == len(self.endings) else 1

    def line(self) -> str:
        """`12 runs: 10 done (4 already), 1 failed, 1 stopped`; `429 runs in 26 directories: 429 done` of programs."""
        counts = {state: _num_runs(self.of(state)) for state in ("done", "failed", "diverged", "stopped")}
        already = _num_runs([ending for ending in self.of("done") if ending.seconds == 0])
        parts = [f"{counts.pop('done'):,} done" + (f" ({already:,} already)" if already else "")]
        parts += [f"{count:,} {state}" for state, count in counts.items() if count]
        runs, places = _num_runs(self.endings), len(self.endings)
        where = "" if runs == places else f" in {places:,} {'directory' if places == 1 else 'directories'}"
        return f"{counted(runs, 'run')}{where}: {', '.join(parts)}"


def _num_runs(endings: Sequence[Ending]) -> int:
    return sum(ending.num_runs for ending in endings)


def directories(configs: Sequence[AnyRun]) -> list[RunDir]:
    """Where the runs live, each directory once: one a run, and one for each program of the grid engine's runs."""
    found = {placed.directory.path: placed.directory for placed in programs.place_all(_grid_runs(configs))}
    for config in configs:
        if isinstance(config, RunConfig):
            run = experiment.place(config)
            found[run.path] = run
    return list(found.values())


def plan(configs: Sequence[AnyRun]) -> Iterator[str]:
    """What training the runs would mean, in lines for a person; nothing is written."""
    for placed in programs.place_all(_grid_runs(configs)):
        yield from grid_run.plan(*placed)
    for config in configs:
        if isinstance(config, RunConfig):
            yield from experiment.plan(experiment.place(config), config)


def _grid_runs(configs: Sequence[AnyRun]) -> list[GridRun]:
    return [config for config in configs if isinstance(config, GridRun)]


def make_jobs(configs: Sequence[AnyRun], share: Callable[[AnyLaunch], int], *, hold: bool = True) -> list[Job]:
    """Write each run's directory, where it was not yet (not so without `hold`); configs that resolve to one run are one job,
    and so are the runs of one program.

    share: of the cores, for a run that does not ask for a number of threads.
    Raises RunError when a directory holds another run, StoreError when a store is missing."""
    jobs: dict[Path, Job] = {}
    for placed in programs.place_all(_grid_runs(configs)):
        if hold:
            programs.hold(*placed)
        launch, runs = placed.config.run.launch, len(placed.config)
        threads = launch.devices or min(share(launch), runs)
        job = job_of(placed.directory, launch)._replace(num_runs=runs, threads=threads, cpus=threads)
        jobs[placed.directory.path] = job
    for config in configs:
        if isinstance(config, RunConfig):
            run = experiment.place(config)
            definite = with_threads(config, run, share(config.launch))
            if hold:
                experiment.hold(run, definite)
            jobs[run.path] = job_of(run, definite.launch)
    return list(jobs.values())


def job_of(run: RunDir, launch: AnyLaunch) -> Job:
    """The job that trains a run or a program; nothing is written."""
    command = train_command(run.path)
    if isinstance(launch, GridLaunch):
        return Job(run, command, slurm=launch.slurm, ray=launch.ray)
    gpus = launch.num_processes if launch.device == "cuda" else 0
    cpus = launch.num_processes * (launch.threads or 1)
    return Job(run, command, launch.threads, cpus, gpus, launch.slurm, launch.ray)


def with_threads(config: RunConfig, run: RunDir, share: int) -> RunConfig:
    """The config with a definite number of threads a rank: its own, else that with which the run began, else its share.

    The last bits of a sum depend on how many threads share it, so a run keeps their number when it is resumed."""
    launch = config.launch
    if launch.threads is not None:
        return config
    begun = experiment.load(run).launch.threads if run.config_path.exists() else None
    threads = begun or max(1, share // launch.num_processes)
    return config.model_copy(update={"launch": launch.model_copy(update={"threads": threads})})


def train_program(placed: Placed, dry_run: bool = False) -> int:
    """Train a program in this process, on all cores; the exit code. `dry_run`: only say what it would mean."""
    directory, config = placed
    if dry_run:
        print("\n".join(grid_run.plan(directory, config)))
        return 0
    threads = int(os.environ.get("OMP_NUM_THREADS", num_cores()))  # a launcher's share
    outcome = grid_run.run(directory, config, threads)
    print(f"{directory.path}: {outcome.reason}", file=sys.stderr if outcome.signal else sys.stdout)
    print(
        "next: the same command, which goes on from there"
        if outcome.signal
        else f"next: paribus report {directory.path}"
    )
    return 128 + outcome.signal if outcome.signal else 0


def train_command(run: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "paribus", "train", str(run))


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables that keep a process to so many CPU threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def log_attempt(run: RunDir, command: Sequence[str]) -> None:
    """Begin an attempt in a run's log.txt."""
    with run.log_path.open("a") as log:
        print(f"{_ATTEMPT}{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {shlex.join(command)}", file=log)


def log_tail(run: RunDir, num_lines: int = 5) -> Sequence[str]:
    """The last lines that the last attempt left in log.txt; blank ones do not count."""
    try:
        with run.log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16)))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    begin = max((number + 1 for number, line in enumerate(lines) if line.startswith(_ATTEMPT)), default=0)
    return [line for line in lines[begin:] if line.strip()][-num_lines:]
