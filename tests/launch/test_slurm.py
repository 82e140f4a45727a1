"""What only Slurm does, against a real one: time limits, requeues, jobs that outlive the sweep. The rest: test_launchers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_local import attempts, states, wait_for

import clusters
from paribus.errors import ConfigError, RunError
from paribus.launch import slurm
from paribus.launch.attempt import _may_go_on, _progress
from paribus.launch.jobs import Job, SweepResult
from paribus.rundir import RunDir, write_text
from paribus.train.cluster import SlurmConfig

HERE = Path(__file__).parent
QUICK = SlurmConfig(time_limit_min=5)
SWEEP = """
import sys
from pathlib import Path
from test_slurm import job, sweep
from paribus.launch.slurm import run_jobs
print(sweep([job(Path(sys.argv[1]), sys.argv[2])]).line())
"""
LOGGING = """
import logging
from pathlib import Path
from test_slurm import job
from paribus.launch.slurm import scripts

closed = []

class Other(logging.StreamHandler):
    def close(self):
        closed.append(self)

other = Other()
print(len(list(scripts([job(Path.cwd(), "ok")]))), len(closed))
"""
SQUEUE = """#!/bin/sh
left=$(cat {left})
[ "$left" -gt 0 ] || exec {squeue} "$@"
echo $((left - 1)) > {left}
echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2
exit 1
"""


@pytest.fixture
def cluster(slurm_conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm_conf)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))


@pytest.fixture
def silence(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let squeue fail so many times from now on, as it does while Slurm's controller is restarted."""
    left, programs = tmp_path / "left", tmp_path / "bin"
    programs.mkdir()
    (programs / "squeue").write_text(SQUEUE.format(left=left, squeue=shutil.which("squeue")))
    (programs / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return lambda times: write_text(left, f"{times}\n")


def job(folder: Path, behaviour: str, section: SlurmConfig = QUICK) -> Job:
    run = RunDir(folder / f"{behaviour}-00000000")
    run.path.mkdir(exist_ok=True)
    return Job(run, (sys.executable, "-m", "fake_run", str(run.path), behaviour), 1, slurm=section)


def sweep(jobs: list[Job], progress: bool = False) -> SweepResult:
    return slurm.run_jobs(jobs, None, progress, poll_s=0.3)


def when(run: RunDir, text: str, *commands: list[str]) -> threading.Thread:
    """Once the run's log has the text, carry out the commands, `ID` replaced by the run's job in Slurm."""

    def wait_and_do() -> None:
        wait_for(run.log_path, text, 90)
        for command in commands:
            subprocess.run([number(run) if word == "ID" else word for word in command], check=True)

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def number(run: RunDir) -> str:
    place = json.loads((run.path / "slurm.json").read_text())
    command = ["squeue", "-h", "-r", f"--name={place['name']}", "-o", "%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def steps(run: RunDir) -> list[int]:
    return [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()]


def test_a_machine_without_slurm_is_told_so_in_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"^--on slurm: no sbatch on the PATH; run this on a machine that submits"):
        slurm.refuse_unreachable([QUICK])


def test_a_turn_in_which_no_step_was_done_is_the_last_one(tmp_path):
    run = RunDir(tmp_path)
    run.set_status("stopped", "SIGTERM after step 5", step=5)
    assert _may_go_on(run, (0, 4), {"time_limit_min": 7})
    assert _may_go_on(run, None, {"time_limit_min": 7})
    assert not _may_go_on(run, (0, 5), {"time_limit_min": 7})
    assert run.status()["state"] == "failed"
    assert run.status()["reason"].startswith("launch.slurm.time_limit_min: 7 min were over before one step was done")


def test_the_same_step_of_a_later_round_is_a_later_one(tmp_path):
    run = RunDir(tmp_path)
    run.set_status("stopped", "SIGTERM", round=2, step=5)
    before = _progress(run.status())
    run.set_status("stopped", "SIGTERM", round=3, step=5)
    assert _may_go_on(run, before, {"time_limit_min": 7})
    assert not _may_go_on(run, _progress(run.status()), {"time_limit_min": 7})
    assert run.status()["state"] == "failed"


def test_submitting_leaves_the_logging_of_the_process_alone(tmp_path):
    """submitit would close the handlers of others, and absl's handler then the stream that it writes to."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    command = [sys.executable, "-c", LOGGING]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("1 0\n", "")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestRealSlurm:
    def test_a_run_that_meets_its_time_limit_goes_on_in_a_new_turn(self, tmp_path):
        """The first turn takes 2 s a step, 40 s in all, but is asked to stop after 15 s, or up to 60 s earlier."""
        late = job(tmp_path, "patient", SlurmConfig(time_limit_min=1, stop_before_s=45))
        assert sweep([late]).line() == "1 run: 1 done"
        assert attempts(late.run) == ["begin", "end"] * 2
        assert steps(late.run) == list(range(1, 21))

    def test_a_preempted_run_is_requeued_and_goes_on(self, tmp_path):
        big = job(tmp_path, "patient", SlurmConfig(time_limit_min=5, cpus=4, partition="main"))
        urgent = ["sbatch", "--partition=urgent", "--ntasks=4", f"--output={tmp_path}/urgent", "--wrap=sleep 1"]
        other = when(big.run, "step 2", urgent)
        assert sweep([big]).line() == "1 run: 1 done"
        other.join()
        assert attempts(big.run) == ["begin", "end"] * 2
        assert steps(big.run) == list(range(1, 21))

    def test_a_job_killed_through_scancel_and_requeued_goes_on(self, tmp_path):
        """Slurm sends SIGTERM first, whatever the signal: the run stops with a checkpoint, and goes on from there."""
        killed = job(tmp_path, "patient")
        other = when(killed.run, "step 2", ["scancel", "--signal=KILL", "ID"], ["scontrol", "requeue", "ID"])
        assert sweep([killed]).line() == "1 run: 1 done"
        other.join()
        assert attempts(killed.run) == ["begin", "end"] * 2
        assert steps(killed.run) == list(range(1, 21))

    def test_a_job_whose_program_is_killed_is_begun_again_once(self, tmp_path):
        """SIGKILL to the batch program alone: it leaves no exit code, and its command stops with it."""
        killed = job(tmp_path, "patient")
        other = when(killed.run, "step 2", ["scancel", "--batch", "--signal=KILL", "ID"])
        assert sweep([killed]).line() == "1 run: 1 done"
        other.join()
        assert attempts(killed.run)[-2:] == ["begin", "end"]
        assert attempts(killed.run).count("begin") == 2

    def test_a_job_that_somebody_cancels_is_stopped_and_not_begun_again(self, tmp_path):
        cancelled = job(tmp_path, "patient")
        other = when(cancelled.run, "step 2", ["scancel", "ID"])
        ended = sweep([cancelled])
        other.join()
        assert (states(ended), ended.exit_code) == (["stopped"], 1)
        assert attempts(cancelled.run) == ["begin", "end"]

    def test_jobs_that_outlive_their_sweep_are_watched_and_not_submitted_again(self, tmp_path, capfd):
        one = job(tmp_path, "patient")
        first = subprocess.Popen([sys.executable, "-c", SWEEP, tmp_path, "patient"], cwd=HERE)
        wait_for(one.run.log_path, "step 2", 90)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert sweep([one], progress=True).line() == "1 run: 1 done"
        assert "queued already, watched from now on" in capfd.readouterr().err
        assert attempts(one.run) == ["begin", "end"]

    def test_a_waiting_job_is_not_submitted_again_while_squeue_is_silent(self, tmp_path, silence):
        late = job(tmp_path, "ok", SlurmConfig(time_limit_min=5, extra={"begin": "now+15"}))
        slurm._Queue(None, 0.3).start([late])
        silence(99)
        with pytest.raises(
            RunError, match=r"squeue does not tell whether it is queued still; nothing more is submitted"
        ):
            sweep([late])
        silence(2)
        assert sweep([late]).line() == "1 run: 1 done"
        assert len(list((tmp_path / ".slurm").iterdir())) == 1

    def test_jobs_are_not_believed_dead_while_squeue_is_silent(self, tmp_path, silence, capfd):
        silence(4)
        assert sweep([job(tmp_path, "slow")], progress=True).line() == "1 run: 1 done"
        assert "begun again" not in capfd.readouterr().err
        assert len(list((tmp_path / ".slurm").iterdir())) == 1

    def test_what_keeps_a_job_from_its_command_is_in_the_runs_log(self, tmp_path):
        lines = ["echo 'no module named cuda/99' >&2", "exit 3"]
        ended = sweep([job(tmp_path, "ok", SlurmConfig(time_limit_min=5, setup=lines))])
        assert ended.endings[0].reason == "exit code 3: no module named cuda/99"

    def test_what_slurm_refuses_is_told_in_one_line_and_leaves_no_record(self, tmp_path):
        huge = job(tmp_path, "ok", SlurmConfig(time_limit_min=5, memory_gib=4000))
        with pytest.raises(RunError, match=r"^--on slurm: sbatch refused 1 runs: .*; mend launch.slurm$"):
            sweep([huge])
        assert not (huge.run.path / "slurm.json").exists()
        assert not list((tmp_path / ".slurm").iterdir())
        with pytest.raises(ConfigError, match=r'found "mian", expected .*: main, urgent, did you mean "main"\?$'):
            sweep([job(tmp_path, "ok", SlurmConfig(partition="mian"))])

    def test_a_silent_controller_is_told_in_one_line(self, tmp_path, monkeypatch, slurm_conf):
        lines = Path(slurm_conf).read_text().splitlines()
        dead = ["SlurmctldPort=1" if line.startswith("SlurmctldPort") else line for line in lines]
        (tmp_path / "slurm.conf").write_text("\n".join([*dead, "MessageTimeout=2", ""]))
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        with pytest.raises(ConfigError, match=r"^--on slurm: Slurm is not reachable: .*; is its controller up"):
            slurm.refuse_unreachable([QUICK])

    def test_the_script_is_a_command_with_what_the_section_asks_for(self, tmp_path):
        section = SlurmConfig(
            partition="main", account="lab", qos="long", memory_gib=1.5, cpus=3, gpus=2, max_parallel=1,
            extra={"constraint": "a100", "exclusive": True}, setup=["module load cuda"],
        )  # fmt: skip
        [text] = slurm.scripts([job(tmp_path, "ok", section), job(tmp_path, "slow", section)])
        flags = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
        expected = {"partition=main", "account=lab", "qos=long", "mem=1536M", "cpus-per-task=3", "gpus-per-node=2"}
        expected |= {"time=60", "requeue", "signal=B:USR1@120", "constraint=a100", "exclusive", "array=0-1%1"}
        assert expected <= flags
        assert "\nmodule load cuda\n" in text
        assert f"\nexec {sys.executable} -u -m paribus.launch.attempt " in text
        assert not (tmp_path / ".slurm").exists()

    def test_starting_slurm_twice_starts_it_once(self, slurm_conf):
        script = clusters.start_slurm()
        folder = Path(slurm_conf).parent
        before = (folder / "slurmctld.process").read_text()
        start = time.monotonic()
        assert script.start(folder) == slurm_conf
        assert time.monotonic() - start < 20
        assert (folder / "slurmctld.process").read_text() == before
