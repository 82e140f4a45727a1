"""What every launcher owes a sweep, asked of each: processes here, a real Slurm, and a real Ray cluster.

Oracles: the ledgers that the runs write under their own lock, and an undisturbed run's bits."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from launched_sweep import jobs, launch
from test_local import attempts, states, wait_for
from test_sweep import coins, result, wait_for_lines

from paribus import config as configs
from paribus import experiment
from paribus.grid import results
from paribus.grid.config import GridRun
from paribus.launch import launcher
from paribus.launch.jobs import Job, SweepResult, make_jobs
from paribus.launch.local import sweep as sweep_here
from paribus.rundir import RunDir

HERE = Path(__file__).parent
PLACES = ["local", pytest.param("slurm", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)]


class Place(NamedTuple):
    kind: str
    address: str | None

    def jobs(self, folder: Path, *behaviours: str) -> list[Job]:
        return jobs(folder, behaviours, self.address)

    def run(self, todo: list[Job], parallel: int | None = None, progress: bool = False) -> SweepResult:
        return launch(self.kind, todo, parallel, progress)

    def start(self, folder: Path, parallel: int, *behaviours: str) -> subprocess.Popen[str]:
        place = f"ray:{self.address}" if self.address else self.kind
        command = [sys.executable, HERE / "launched_sweep.py", place, folder, str(parallel), *behaviours]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def overrides(self) -> dict[str, object]:
        return {"threads": 1, "ray": {"address": self.address}, "slurm": {"time_limit_min": 10}}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent / "launch"))
    if request.param == "slurm":
        monkeypatch.setenv("SLURM_CONF", request.getfixturevalue("slurm_conf"))
    address = request.getfixturevalue("ray_address") if request.param == "ray" else None
    if address is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as the cluster was started
    return Place(request.param, address)


def test_what_is_done_is_skipped_and_what_is_unfinished_is_resumed(place, tmp_path):
    todo = place.jobs(tmp_path, "ok", "ok")
    with todo[1].run.lock():
        todo[1].run.set_status("stopped", "SIGTERM after step 15", step=15)
    first = place.run(todo)
    assert (first.line(), first.exit_code) == ("2 runs: 2 done", 0)
    assert todo[1].run.metrics_path.read_text().startswith('{"step": 16')
    again = place.run(todo)
    assert (again.line(), again.exit_code) == ("2 runs: 2 done (2 already)", 0)
    assert [attempts(job.run) for job in todo] == [["begin", "end"]] * 2


def test_a_failing_run_stops_no_other_and_says_why(place, tmp_path, capfd):
    todo = place.jobs(tmp_path, "ok", "failed", "diverged", "silent", "exits-255", "ok")
    ended = place.run(todo, progress=True)
    assert states(ended) == ["done", "failed", "diverged", "failed", "failed", "done"]
    assert ended.exit_code == 1
    assert ended.endings[1].reason == "this run is meant to have failed"
    assert ended.endings[3].reason == "exit code 2: fake_run: a mistake that no status tells"
    assert ended.endings[4].reason == "exit code 255: step 10"
    assert todo[3].run.status()["state"] == "failed"
    assert "| fake_run: this run is meant to have failed" in capfd.readouterr().err  # the end of its log


def test_a_killed_run_is_begun_again_once_and_then_failed(place, tmp_path):
    ended = place.run(place.jobs(tmp_path, "killed", "killed-once"))
    assert states(ended) == ["failed", "done"]
    assert ended.endings[0].reason == "killed by SIGKILL 2 times, perhaps for want of memory"
    assert ended.endings[0].run.status()["state"] == "failed"
    assert [attempts(ending.run) for ending in ended.endings] == [["begin", "begin"], ["begin", "begin", "end"]]


def test_a_command_has_the_threads_that_its_job_asks_for(place, tmp_path):
    [job] = place.jobs(tmp_path, "ok")
    place.run([job._replace(threads=3)])
    assert (job.run.path / "attempts.txt").read_text().startswith("begin 3\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_every_run_checkpoint_and_the_next_sweep_goes_on(number, place, tmp_path):
    names = ("patient", "patient", "ok")
    sweep = place.start(tmp_path, 2, *names)
    active = place.jobs(tmp_path, *names)[:2]
    for job in active:
        wait_for(job.run.log_path, "step 1", 60)
    sweep.send_signal(number)
    output, errors = sweep.communicate(timeout=60)
    assert (output, sweep.returncode) == ("3 runs: 0 done, 3 stopped\n", 128 + number), errors
    for job in active:
        assert job.run.status()["state"] == "stopped"
        assert job.run.status()["reason"].startswith(f"{number.name} after step "), "as the person stopped it"
        assert not job.run.is_locked()
        assert attempts(job.run) == ["begin", "end"]
    again = place.run(place.jobs(tmp_path, *names))
    assert again.line() == "3 runs: 3 done"
    assert [attempts(job.run) for job in active] == [["begin", "end"] * 2] * 2
    for job in active:  # each step once: the second attempt began where the first had stopped
        steps = [line.split(",")[0] for line in job.run.metrics_path.read_text().splitlines()]
        assert steps == [f'{{"step": {step}' for step in range(1, 21)]


def test_no_more_runs_at_once_than_were_asked_for(place, tmp_path):
    todo = place.jobs(tmp_path, *["slow"] * 4)
    with sampled(lambda: sum(job.run.is_locked() for job in todo)) as counts:
        assert place.run(todo, 2).exit_code == 0
    assert max(counts) == 2


@contextmanager
def sampled(measure: Callable[[], int]) -> Iterator[list[int]]:
    """Call a function over and over until the block ends; what it returned."""
    seen, is_over = [0], threading.Event()

    def sample() -> None:
        while not is_over.wait(0.02):
            seen.append(measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bits of a run that nothing disturbed."""
    config = coins(tmp_path_factory.mktemp("undisturbed"), steps=60, threads=1)
    assert sweep_here([config], 1, progress=False).exit_code == 0
    return result(experiment.place(config))


@pytest.mark.slow
def test_a_real_run_that_is_killed_ends_bit_for_bit_as_an_undisturbed_one(place, tmp_path, undisturbed):
    [job] = make_jobs([coins(tmp_path, steps=60, **place.overrides)], lambda _launch: 1)
    killer = threading.Thread(target=kill_after, args=(job.run, 15))
    killer.start()
    ended = place.run([job])
    killer.join()
    assert states(ended) == ["done"]
    assert job.run.log_path.read_text().count("--- ") == 2  # attempts
    assert result(job.run) == undisturbed


def kill_after(run: RunDir, lines: int) -> None:
    """SIGKILL the process that holds a run once it has logged so many steps."""
    wait_for_lines(run.metrics_path, lines)
    os.kill(int((run.path / ".lock").read_text().split()[1]), signal.SIGKILL)


def portraits(folder: Path, **launch: object) -> list[GridRun]:
    """Two programs of three runs, of which one diverges."""
    base = {
        "study": "portraits",
        "data": {"kind": "polynomial"},
        "model": {"kind": "mlp", "width": 16, "depth": 2},
        "train": {"eta": 1, "batch_size": 4, "budget": {"steps": 100_000}},
        "launch": {"checkpoint_every_s": 0.05} | launch,
        "paths": {"runs": str(folder)},
    }
    runs = [
        base | {"name": f"eta{eta:g}", "model": base["model"] | {"width": width}, "train": base["train"] | {"eta": eta}}
        for width in (16, 24)
        for eta in (0.01, 0.1, 1e3)
    ]
    return [configs.from_mapping(run, GridRun, "the test's run") for run in runs]


@pytest.mark.slow
def test_a_program_of_the_grid_engine_that_is_killed_ends_bit_for_bit_as_undisturbed_ones(place, tmp_path):
    assert sweep_here(portraits(tmp_path / "here"), 1, progress=False).exit_code == 0
    grid = portraits(tmp_path / "there", **{key: value for key, value in place.overrides.items() if key != "threads"})
    first = make_jobs(grid, lambda _launch: 1, hold=False)[0].run
    killer = threading.Thread(target=kill_after_a_checkpoint, args=(first,))
    killer.start()
    ended = launcher.sweep(grid, place.kind)
    killer.join()
    assert states(ended) == ["done", "done"]
    here, there = (results.losses(tmp_path / name).sort("id", "step") for name in ("here", "there"))
    assert here["loss"].to_numpy().tobytes() == there["loss"].to_numpy().tobytes()
    assert len(here["id"].unique()) == 6
    assert states(launcher.sweep(grid, place.kind)) == ["done", "done"]
    assert first.log_path.read_text().count("--- ") == 2  # attempts: a second identical sweep begins none


def kill_after_a_checkpoint(run: RunDir) -> None:
    """SIGKILL the process that holds a program once it has written a checkpoint."""
    end = time.monotonic() + 60
    while not (state := run.path / "state").is_dir() or not any(state.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(int((run.path / ".lock").read_text().split()[1]), signal.SIGKILL)


@pytest.mark.slow
def test_two_equal_configs_are_one_job(place, tmp_path):
    config = coins(tmp_path, steps=5, **place.overrides)
    ended = launcher.sweep([config, config], place.kind)
    assert ended.line() == "1 run: 1 done"
    assert experiment.load(ended.endings[0].run).launch.threads == 1


@pytest.mark.slow
def test_the_command_line_exits_with_1_for_a_failed_run_and_with_0_when_all_are_done(place, tmp_path):
    (tmp_path / "base.yaml").write_text(configs.dump(coins(tmp_path / "runs", steps=5, **place.overrides)))
    (tmp_path / "sweep.yaml").write_text("base: base.yaml\nname: o{seeds.order}\ngrid: {seeds.order: [1, 2]}\n")
    command = [sys.executable, "-m", "paribus", "sweep", tmp_path / "sweep.yaml", "--on", place.kind]
    worse = subprocess.run([*command, "train.optimizer.lr=1e30"], capture_output=True, text=True, check=False)
    assert worse.returncode == 1, worse.stderr
    assert worse.stdout.startswith("2 runs: 0 done, 2 diverged")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 runs: 2 done\n")
    start = time.monotonic()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout.startswith("2 runs: 2 done (2 already)"), again.stderr
    assert time.monotonic() - start < 30
