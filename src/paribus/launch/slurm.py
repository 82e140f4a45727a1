"""A sweep on a Slurm cluster: one array of jobs for each set of equal needs, submitted through submitit and watched.

submitit writes the sbatch script and submits it; the script executes a command, so nothing is ever pickled (submitit's
public `submit` always is, its CommandFunction too). The jobs go on when this process ends. Each run directory keeps the
name of its array in slurm.json, written before the submission: the next sweep finds what still waits or runs."""

import contextlib
import json
import re
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paribus.errors import MissingExtra, RunError
from paribus.experiment import variables
from paribus.launch import slurm_cluster as cluster
from paribus.launch.attempt import OWN_STOP, exit_path
from paribus.launch.jobs import Job, SweepResult, log_tail
from paribus.launch.pool import CANCELLED, KILLED, carry_out
from paribus.rundir import RunDir, write_json
from paribus.train.cluster import SlurmConfig
from paribus.words import counted

POLL_S = 5.0  # one squeue for the whole sweep
ADOPTION_POLLS = 3  # unanswered ones before a sweep gives up on a run that may be queued


def run_jobs(
    jobs: Sequence[Job], max_parallel: int | None = None, progress: bool = True, poll_s: float = POLL_S
) -> SweepResult:
    """Submit what is not done and not queued yet, and watch all of it until it ends.

    max_parallel: runs at once; None: as `launch.slurm.max_parallel` says. SIGINT, after a question at a terminal, and
    SIGTERM let the runs write a checkpoint and stop. Raises what `refuse_unreachable` raises, and RunError when Slurm
    refuses a submission."""
    refuse_unreachable([job.slurm for job in jobs])
    return carry_out(jobs, _Queue(max_parallel, poll_s), max(1, len(jobs)), progress)


def refuse_unreachable(sections: Sequence[SlurmConfig]) -> None:
    """Raise MissingExtra without submitit, ConfigError when no Slurm answers or it lacks a partition."""
    _submitit()
    cluster.refuse_unreachable(section.partition for section in sections)


def _submitit() -> Any:
    """The library, which else would set up the logging of the whole process, and close what others log to. Raises
    MissingExtra."""
    with variables({"SUBMITIT_LOG_LEVEL": "NOCONFIG"}):
        try:
            import submitit
        except ImportError:
            raise MissingExtra(
                "--on slurm submits through the library submitit: pip install 'paribus[slurm]'"
            ) from None
    return submitit


def scripts(jobs: Sequence[Job], max_parallel: int | None = None) -> Iterator[str]:
    """The sbatch script of each array that would be submitted; nothing is written."""
    for slurm, group in _groups(jobs, max_parallel):
        name = _array_name(group[0].run)
        folder = _folder(group[0].run, name)
        runs = "\n".join(f"# {index}: {job.run.path}" for index, job in enumerate(group))
        text = _executor(folder, name, slurm, len(group))._make_submission_file_text(_command(folder), "")
        yield f"{text.rstrip()}\n{runs}"


# --- arrays ------------------------------------------------------------------------------------------------------------


def _groups(jobs: Sequence[Job], max_parallel: int | None) -> list[tuple[SlurmConfig, list[Job]]]:
    """Jobs of equal needs, the needs made definite."""
    groups: dict[str, tuple[SlurmConfig, list[Job]]] = {}
    for job in jobs:
        needs = {
            "cpus": job.slurm.cpus or job.cpus,
            "gpus": job.gpus if job.slurm.gpus is None else job.slurm.gpus,
            "max_parallel": max_parallel or job.slurm.max_parallel,
        }
        slurm = job.slurm.model_copy(update=needs)
        groups.setdefault(slurm.model_dump_json(), (slurm, []))[1].append(job)
    return list(groups.values())


def _array_name(run: RunDir) -> str:
    return f"paribus-{re.sub(r'[^A-Za-z0-9_.+-]', '-', run.path.resolve().parent.name)[:40]}-{uuid.uuid4().hex[:8]}"


def _folder(run: RunDir, name: str) -> Path:
    """Where the script, the tasks and the exit codes of an array lie; `status` looks into no hidden folder."""
    return run.path.resolve().parent / ".slurm" / name


def _command(folder: Path) -> str:
    return "exec " + shlex.join([sys.executable, "-u", "-m", "paribus.launch.attempt", str(folder)])


def _executor(folder: Path, name: str, slurm: SlurmConfig, num_tasks: int) -> Any:
    executor = _submitit().SlurmExecutor(folder)
    given = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "setup": slurm.setup or None,
        "mem": None if slurm.memory_gib is None else f"{round(slurm.memory_gib * 1024)}M",
        "gpus_per_node": slurm.gpus or None,
    }
    own = {"requeue": True, "signal": f"B:USR1@{slurm.stop_before_s}"}  # B: to the script alone, which is our program
    executor.update_parameters(
        job_name=name,
        time=slurm.time_limit_min,
        cpus_per_task=slurm.cpus,
        ntasks_per_node=1,
        array_parallelism=slurm.max_parallel or num_tasks,
        stderr_to_stdout=True,
        use_srun=False,  # `exec`: signals reach our program, and no step hides that it was killed
        additional_parameters={**own, **{flag.replace("_", "-"): value for flag, value in slurm.extra.items()}},
        **{key: value for key, value in given.items() if value is not None},
    )
    executor.parameters["map_count"] = num_tasks
    return executor


def _submit(slurm: SlurmConfig, jobs: Sequence[Job], after: Collection[str]) -> tuple[str, str]:
    """Submit one array; its name, and the number that Slurm gave it.

    after: the numbers of arrays that must have ended before it, since each keeps a limit of runs at once of its own."""
    name = _array_name(jobs[0].run)
    folder = _folder(jobs[0].run, name)
    folder.mkdir(parents=True)
    tasks = [
        {
            "run": str(job.run.path.resolve()),
            "command": job.command,
            "threads": job.threads or slurm.cpus,
            "time_limit_min": slurm.time_limit_min,
        }
        for job in jobs
    ]
    write_json(folder / "tasks.json", tasks)
    for index, job in enumerate(jobs):
        write_json(_record_path(job.run), {"name": name, "task": index, "folder": str(folder)})
    executor = _executor(folder, name, slurm, len(jobs))
    if after:
        executor.parameters["dependency"] = "afterany:" + ":".join(sorted(after))
    try:
        return name, str(executor._submit_command(_command(folder)).job_id)
    except _submitit().core.utils.FailedJobError as error:
        for job in jobs:
            _record_path(job.run).unlink()
        shutil.rmtree(folder)
        said = [line for line in str(error).splitlines() if line.startswith("sbatch: error: ")]
        reason = (said or str(error).splitlines())[-1].removeprefix("sbatch: error: ")
        raise RunError(f"--on slurm: sbatch refused {len(jobs)} runs: {reason}; mend launch.slurm") from None


class _Place(NamedTuple):
    """Where a run's job is: an element of an array."""

    name: str
    task: int
    folder: Path


def _record_path(run: RunDir) -> Path:
    return run.path / "slurm.json"


def _place(run: RunDir) -> _Place | None:
    try:
        record = json.loads(_record_path(run).read_text())
    except FileNotFoundError:
        return None
    return _Place(record["name"], record["task"], Path(record["folder"]))


# --- watching ----------------------------------------------------------------------------------------------------------


class _Queue:
    """`Workers` on a Slurm cluster."""

    outlived_by = "Slurm"

    def __init__(self, max_parallel: int | None, poll_s: float) -> None:
        self._max_parallel, self._poll_s = max_parallel, poll_s
        self._jobs: dict[str, tuple[Job, _Place]] = {}
        self._elements: dict[tuple[str, int], cluster.Element] = {}  # as squeue told last
        self._known: set[str] = set()  # the arrays of interest: submitted here, or told of by squeue
        self._unseen: set[str] = set()  # the numbers of arrays submitted since
        self._last_poll = 0.0
        self._gone: set[str] = set()  # ended when last seen, but without an exit code as yet
        self._is_stopping = False

    def adopts(self, job: Job) -> bool:
        place = _place(job.run)
        if place is None:
            return False
        if place.name not in self._known:
            self._ask_for(place.name, job.run)
        element = self._elements.get(place[:2])
        if element is None or element.has_ended:
            return False
        self._jobs[str(job.run.path)] = job, place
        return True

    def start(self, jobs: Sequence[Job]) -> Sequence[str]:
        lines = []
        for slurm, group in _groups(jobs, self._max_parallel):
            before = {e.number.split("_")[0] for e in self._watched() if not e.has_ended} | self._unseen
            name, number = _submit(slurm, group, before if slurm.max_parallel else ())
            for task, job in enumerate(group):
                self._jobs[str(job.run.path)] = job, _Place(name, task, _folder(group[0].run, name))
            self._known.add(name)
            self._unseen.add(number)
            lines.append(f"array {number} of {counted(len(group), 'job')} submitted: {name}")
        self._last_poll = time.monotonic()
        return lines

    def running(self) -> Collection[str]:
        return [key for key, (_, place) in self._jobs.items() if self._state(place) == "RUNNING"]

    def ended(self, timeout_s: float) -> Mapping[str, int]:
        due_s = self._last_poll + self._poll_s - time.monotonic()
        if due_s > 0:
            time.sleep(min(due_s, timeout_s))
            return {}
        if not self._poll():
            return {}
        codes = {key: code for key in list(self._jobs) if (code := self._code(key)) is not None}
        for key in codes:
            del self._jobs[key]
        if self._is_stopping:
            self._cancel_waiting()  # what came back into the queue since
        return codes

    def stop(self) -> None:
        self._is_stopping = True
        self._cancel_waiting()
        self._poll()
        running = [e.number for e in self._watched() if not e.has_ended and not e.is_waiting]
        cluster.cancel(running, "--batch", f"--signal={OWN_STOP.name.removeprefix('SIG')}")

    def kill(self) -> None:
        cluster.cancel([e.number for e in self._watched() if not e.has_ended])

    def close(self) -> None:
        return

    def _cancel_waiting(self) -> None:
        cluster.cancel([e.number for e in self._watched() if e.is_waiting], "--state=PENDING")

    def _watched(self) -> list[cluster.Element]:
        places = [place[:2] for _, place in self._jobs.values()]
        return [self._elements[place] for place in places if place in self._elements]

    def _state(self, place: _Place) -> str:
        element = self._elements.get(place[:2])
        return "" if element is None else element.state

    def _ask_for(self, name: str, run: RunDir) -> None:
        """Learn of an earlier sweep's array. Raises RunError while squeue is silent: the run may be queued still."""
        for _ in range(ADOPTION_POLLS):
            if self._poll(name):
                return
            time.sleep(self._poll_s)
        raise RunError(
            f"{run.path}: an earlier sweep submitted it in {name}, and squeue does not tell whether it is queued still; "
            "nothing more is submitted; repeat the command when squeue answers"
        )

    def _poll(self, *new: str) -> bool:
        """Ask squeue once, for further arrays too; whether it answered. While it does not, what it said last holds."""
        self._last_poll = time.monotonic()
        found = cluster.elements(self._known.union(new))
        if found is None:
            return False
        self._elements = found
        self._known.update(new)
        self._unseen.clear()
        return True

    def _code(self, key: str) -> int | None:
        """How a job ended, None while it has not; squeue has just answered. One of which nothing is left is believed dead
        at the second look: files appear late on a network's file system."""
        job, place = self._jobs[key]
        element = self._elements.get(place[:2])
        if element is not None and not element.has_ended:
            self._gone.discard(key)
            return None
        path = exit_path(place.folder, place.task)
        if path.exists():
            code = int(json.loads(path.read_text())["code"])
        elif key not in self._gone:
            self._gone.add(key)
            return None
        else:
            self._gone.discard(key)
            _keep_output(job.run, place, element)
            code = KILLED if element is None else element.code or KILLED
        if element is not None and element.state == "CANCELLED" and not self._is_stopping and not job.run.is_done:
            return _told_cancelled(job.run)
        return code


def _told_cancelled(run: RunDir) -> int:
    """A job that somebody cancelled is not begun again by this sweep: the run is stopped, as after a SIGTERM."""
    with contextlib.suppress(RunError), run.lock():
        if run.status().get("state") != "stopped":
            run.set_status("stopped", "cancelled in Slurm")
    return CANCELLED


def _keep_output(run: RunDir, place: _Place, element: cluster.Element | None) -> None:
    """Put what Slurm and the shell said about a job that left no exit code at the end of its run's log."""
    if element is None:
        return
    for output in place.folder.glob(f"*_{place.task}_0_log.out"):
        text = output.read_text(errors="replace").strip()
        if text and text.splitlines()[-1] not in log_tail(run):
            with run.log_path.open("a") as log:
                print(text, file=log)
