"""What only the local launcher does: forks, cores, shared directories. The rest: tests/contracts/test_launchers.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_sweep import coins

from paribus.launch.jobs import Job, SweepResult
from paribus.launch.local import PRELOAD, PRELOAD_GRID, default_parallel, run_jobs
from paribus.rundir import RunDir

HERE = str(Path(__file__).parent)
COLD: tuple[str, ...] = ()
WARM = ("json",)  # anything: commands are then forked instead of executed

SWEEP = """
import sys
from pathlib import Path
from test_local import jobs, COLD
from paribus.launch.local import run_jobs
result = run_jobs(jobs(Path(sys.argv[1]), sys.argv[3:]), int(sys.argv[2]), progress=True, preload=COLD)
print(result.line())
sys.exit(result.exit_code)
"""


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", HERE)


def jobs(folder: Path, behaviours: list[str], threads: int | None = None) -> list[Job]:
    """One run for each behaviour, named after it."""
    made = []
    for number, behaviour in enumerate(behaviours):
        run = RunDir(folder / f"{behaviour}-{number:08x}")
        run.path.mkdir(exist_ok=True)
        made.append(Job(run, (sys.executable, "-m", "fake_run", str(run.path), behaviour), threads))
    return made


def states(result: SweepResult) -> list[str]:
    return [ending.state for ending in result.endings]


def attempts(run: RunDir) -> list[str]:
    return [line.split()[0] for line in (run.path / "attempts.txt").read_text().splitlines()]


def start_sweep(folder: Path, parallel: int, *behaviours: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SWEEP, str(folder), str(parallel), *behaviours]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE)


def wait_for(path: Path, text: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, f"{text!r} never came in {path}"
        time.sleep(0.02)


@pytest.mark.parametrize("preload", [pytest.param(PRELOAD, marks=pytest.mark.slow), PRELOAD_GRID], ids=["torch", "jax"])
def test_what_is_imported_before_the_first_fork_starts_no_thread(preload):
    """Else every command is executed from scratch, and imports it all again."""
    code = f"from paribus.launch.nursery import _import_all; print(_import_all({preload!r}))"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout == "True\n", ended.stderr


@pytest.mark.parametrize("preload", [COLD, WARM], ids=["executed", "forked"])
def test_a_failing_run_stops_no_other_and_says_why(preload, tmp_path, capsys):
    todo = jobs(tmp_path, ["ok", "failed", "diverged", "silent", "exits-255", "ok"])
    result = run_jobs(todo, 2, preload=preload)
    assert states(result) == ["done", "failed", "diverged", "failed", "failed", "done"]
    assert result.exit_code == 1
    assert result.line() == "6 runs: 2 done, 3 failed, 1 diverged"
    assert result.endings[4].reason == "exit code 255: step 10"
    assert result.endings[2].reason == "this run is meant to have diverged"
    silent = result.endings[3]
    assert silent.reason == "exit code 2: fake_run: a mistake that no status tells"
    assert silent.run.status()["state"] == "failed"
    shown = capsys.readouterr().err
    assert "| fake_run: this run is meant to have failed" in shown  # the end of its log
    assert (todo[0].run.log_path).read_text().splitlines()[1:] == [f"step {n}" for n in range(1, 21)]


@pytest.mark.parametrize("preload", [COLD, WARM], ids=["executed", "forked"])
def test_a_killed_run_is_begun_again_once_and_then_failed(preload, tmp_path):
    result = run_jobs(jobs(tmp_path, ["killed", "killed-once"]), 2, progress=False, preload=preload)
    assert states(result) == ["failed", "done"]
    assert result.endings[0].reason == "killed by SIGKILL 2 times, perhaps for want of memory"
    assert result.endings[0].run.status()["state"] == "failed"
    assert [attempts(ending.run) for ending in result.endings] == [["begin", "begin"], ["begin", "begin", "end"]]


@pytest.mark.parametrize(("asked", "parallel"), [(None, 1), (None, 2), (3, 2)])
def test_runs_do_not_fight_for_cores(asked, parallel, tmp_path):
    [job] = jobs(tmp_path, ["ok"], threads=asked)
    run_jobs([job], parallel, progress=False, preload=COLD)
    cores = len(os.sched_getaffinity(0))
    expected = asked or max(1, cores // parallel)
    assert (job.run.path / "attempts.txt").read_text().startswith(f"begin {expected}\n")


@pytest.mark.parametrize(
    ("launch", "num_runs", "cores_needed"),
    [
        ([{}], 100, 1),
        ([{"threads": 2}, {}], 100, 2),
        ([{"threads": 2, "engine": "ddp", "num_processes": 2}], 100, 4),
    ],
)
def test_by_default_there_are_as_many_runs_as_the_cores_can_carry(launch, num_runs, cores_needed):
    configs = [coins(Path("runs"), device="cpu", **given) for given in launch * (num_runs // len(launch))]
    assert default_parallel(configs) == max(1, len(os.sched_getaffinity(0)) // cores_needed)
    assert default_parallel(configs[:1]) == 1  # a single run may have all cores


def test_two_sweeps_at_once_share_the_runs_and_train_none_twice(tmp_path):
    behaviours = ["slow", "ok", "ok", "killed-once", "ok"]
    sweeps = [start_sweep(tmp_path, 2, *behaviours) for _ in range(2)]
    for sweep in sweeps:
        output, errors = sweep.communicate(timeout=60)
        assert sweep.returncode == 0, errors
        assert output.startswith("5 runs: 5 done")
    for job in jobs(tmp_path, behaviours):
        expected = ["begin", "begin", "end"] if "killed" in job.run.path.name else ["begin", "end"]
        assert attempts(job.run) == expected


def test_a_run_that_another_process_left_unfinished_is_taken_over(tmp_path):
    [job] = jobs(tmp_path, ["patient"])
    holder = subprocess.Popen(job.command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(job.run.path / "attempts.txt", "begin")
    sweep = start_sweep(tmp_path, 1, "patient")
    assert sweep.stderr is not None
    assert "in use by another process" in sweep.stderr.readline()
    holder.terminate()
    assert holder.wait() == 143
    output, errors = sweep.communicate(timeout=60)
    assert (output, sweep.returncode) == ("1 run: 1 done\n", 0), errors
    assert attempts(job.run) == ["begin", "end", "begin", "end"]


def test_runs_stop_with_a_checkpoint_when_the_sweep_is_killed(tmp_path):
    sweep = start_sweep(tmp_path, 1, "slow")
    [job] = jobs(tmp_path, ["slow"])
    wait_for(job.run.log_path, "step 3")
    sweep.kill()
    sweep.communicate()
    wait_for(job.run.path / "STATUS.json", "SIGTERM after step")
    wait_for(job.run.path / "attempts.txt", "end")


def test_runs_of_a_killed_nursery_stop_and_are_begun_again(tmp_path):
    sweep = start_sweep(tmp_path, 1, "slow")
    [job] = jobs(tmp_path, ["slow"])
    wait_for(job.run.log_path, "step 3")
    [nursery] = children(sweep.pid)
    os.kill(nursery, signal.SIGKILL)
    output, errors = sweep.communicate(timeout=60)
    assert (output, sweep.returncode) == ("1 run: 1 done\n", 0), errors
    assert attempts(job.run) == ["begin", "end", "begin", "end"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
