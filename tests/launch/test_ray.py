"""What only Ray does. The rest: tests/contracts/test_launchers.py."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from test_local import attempts, states, wait_for
from test_sweep import coins

from paribus.errors import ConfigError, RunError
from paribus.launch import launcher, ray
from paribus.launch.jobs import Job
from paribus.rundir import RunDir
from paribus.train.cluster import RayConfig


def job(folder: Path, behaviour: str, section: RayConfig) -> Job:
    run = RunDir(folder / f"{behaviour}-00000000")
    run.path.mkdir(exist_ok=True)
    return Job(run, (sys.executable, "-m", "fake_run", str(run.path), behaviour), 1, ray=section)


def test_a_sweep_is_on_one_cluster(tmp_path):
    two = [RayConfig(), RayConfig(address="auto")]
    with pytest.raises(
        ConfigError, match=r"^launch.ray.address: one cluster for all runs is expected, found auto, null$"
    ):
        ray.connect(two)


def test_a_cluster_that_does_not_answer_is_told_in_one_line():
    with pytest.raises(ConfigError, match=r"^launch.ray.address: no Ray cluster is reachable at 127.0.0.1:1: .+"):
        ray.connect([RayConfig(address="127.0.0.1:1")])


@pytest.mark.slow
def test_a_task_whose_worker_is_killed_is_begun_again_once(tmp_path, ray_address, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as the cluster was started
    one = job(tmp_path, "patient", RayConfig(address=ray_address))

    def kill_worker() -> None:
        wait_for(one.run.log_path, "step 2", 60)
        held = int((one.run.path / ".lock").read_text().split()[1])
        worker = int(Path(f"/proc/{held}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    ended = ray.run_jobs([one], progress=False)
    killer.join()
    assert states(ended) == ["done"]
    assert attempts(one.run) == ["begin", "end"] * 2  # its command got SIGTERM, and went on in another worker


@pytest.mark.slow
def test_a_task_that_waits_for_its_turn_is_not_shown_as_running(tmp_path, ray_address, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    section = RayConfig(address=ray_address, cpus=4)  # all that there are
    todo = [job(tmp_path, name, section) for name in ("patient", "slow")]
    library = ray.connect([section])
    try:
        tasks = ray._Tasks(library)
        tasks.start(todo)
        wait_for(todo[0].run.log_path, "step 1", 60)
        assert tasks.running() == [str(todo[0].run.path)]
        tasks.kill()
    finally:
        library.shutdown()


@pytest.mark.slow
def test_a_command_that_cannot_begin_fails_its_run_and_no_other(tmp_path, ray_address, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    todo = [job(tmp_path, name, RayConfig(address=ray_address)) for name in ("ok", "slow")]
    todo[0] = todo[0]._replace(command=("true", "\0"))  # refused by execve(2)
    ended = ray.run_jobs(todo, progress=False)
    assert states(ended) == ["failed", "done"]
    assert ended.endings[0].reason == (
        "exit code 1: --on ray: the command did not begin: ValueError: embedded null byte"
    )


@pytest.mark.slow
def test_a_cluster_of_its_own_serves_a_sweep_and_refuses_what_it_can_never_carry(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(RunError, match=r"asks for 999 CPU: more than this machine has; lower launch.ray$"):
        ray.run_jobs([job(tmp_path, "ok", RayConfig(cpus=999))], progress=False)
    assert ray.run_jobs([job(tmp_path, "ok", RayConfig())], progress=False).line() == "1 run: 1 done"
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.mark.slow
def test_a_run_that_no_node_could_carry_is_refused_before_its_directory_is_made(tmp_path):
    with pytest.raises(RunError, match=r"asks for 999 CPU: more than this machine has; lower launch.ray$"):
        launcher.sweep([coins(tmp_path, ray={"cpus": 999})], "ray")
    assert not list(tmp_path.iterdir())
