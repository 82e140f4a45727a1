"""Sweeps of real runs: eleven coins, a micro model, tens of steps."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paribus import config as configs
from paribus import experiment
from paribus.launch.jobs import make_jobs
from paribus.launch.local import PRELOAD, run_jobs, sweep
from paribus.run_config import RunConfig
from paribus.rundir import RunDir

pytestmark = pytest.mark.slow

SWEEP = """
import sys
from test_sweep import coins
from paribus.launch.local import sweep
result = sweep([coins(sys.argv[1], seed, 60) for seed in (0, 1)], 2)
sys.exit(result.exit_code)
"""


def coins(folder: Path | str, seed: int = 0, steps: int = 30, **launch: object) -> RunConfig:
    mapping = {
        "study": "sweep",
        "name": f"coins{seed}",
        "seeds": {"order": seed},
        "data": {"kind": "coins", "num_components": 5, "window": 32},
        "model": {"kind": "preset", "name": "micro-neox"},
        "train": {
            "batch_size": 16,
            "budget": {"steps": steps},
            "optimizer": {"kind": "adamw", "lr": 3e-3},
            "checkpoints": {"every": 10, "keep_last": 0},
            "log_every": 1,
        },
        "launch": {"device": "cpu"} | launch,
        "paths": {"runs": str(folder)},
    }
    return configs.from_mapping(mapping, RunConfig, "the test's run")


def result(run: RunDir) -> dict[str, str]:
    """Hashes of what must not depend on how the run was launched."""
    final = max(run.checkpoints.glob("step-*")) / "model.safetensors"
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run.metrics_path, run.stream_path, final)
    }


def test_a_forked_run_is_bit_for_bit_the_executed_one(tmp_path):
    found = []
    for name, preload in (("forked", PRELOAD), ("executed", ())):
        jobs = make_jobs([coins(tmp_path / name), coins(tmp_path / name, seed=1)], lambda _launch: 1)
        assert run_jobs(jobs, 2, progress=False, preload=preload).exit_code == 0
        found.append([result(job.run) for job in jobs])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]  # another seed is another run


def test_a_run_keeps_its_number_of_threads_in_a_later_sweep(tmp_path):
    cores = len(os.sched_getaffinity(0))
    assert sweep([coins(tmp_path, steps=5)], 1, progress=False).exit_code == 0
    run = experiment.place(coins(tmp_path, steps=5))
    assert experiment.load(run).launch.threads == cores
    (run.path / "DONE").unlink()
    sweep([coins(tmp_path, steps=5)], cores, progress=False)
    assert experiment.load(run).launch.threads == cores


def test_a_sweep_stopped_by_a_signal_ends_where_an_undisturbed_one_does(tmp_path):
    undisturbed = [coins(tmp_path / "undisturbed", seed, 60) for seed in (0, 1)]
    assert sweep(undisturbed, 2, progress=False).exit_code == 0
    stopped = subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path / "stopped")], cwd=Path(__file__).parent)
    runs = [experiment.place(coins(tmp_path / "stopped", seed, 60)) for seed in (0, 1)]
    for run in runs:
        wait_for_lines(run.metrics_path, 3)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 128 + signal.SIGTERM
    assert [run.status()["state"] for run in runs] == ["stopped", "stopped"]
    again = sweep([coins(tmp_path / "stopped", seed, 60) for seed in (0, 1)], 2, progress=False)
    assert again.line() == "2 runs: 2 done"
    assert [result(run) for run in runs] == [result(experiment.place(config)) for config in undisturbed]


def test_two_ranks_stop_at_a_signal_and_go_on(tmp_path):
    config = coins(tmp_path, steps=200, engine="ddp", num_processes=2, threads=1)
    run = experiment.create(config)
    command = [sys.executable, "-m", "paribus", "train", run.path]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_lines(run.metrics_path, 3)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM, errors
    assert run.status()["state"] == "stopped"
    assert "Traceback" not in errors
    assert not run.is_locked()
    assert subprocess.run(command, check=False).returncode == 0
    assert run.is_done
    assert len(run.metrics_path.read_text().splitlines()) == 200


def wait_for_lines(path: Path, lines: int, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists() or path.read_text().count("\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.05)
