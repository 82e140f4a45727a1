import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paribus.rundir import RunDir
from paribus.track import wandb as mirror
from paribus.track.config import TrackConfig, WandbConfig
from paribus.track.tracker import build_trackers

ONLINE = TrackConfig(wandb=WandbConfig(project="paribus"))
OFFLINE = TrackConfig(wandb=WandbConfig(project="paribus", group="g", mode="offline"))
CONFIG = {"name": "k4", "train": {"optimizer": {"lr": 3e-4}}}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    directory = RunDir(tmp_path / "k4-1a2b3c4d")
    directory.path.mkdir()
    return directory


@contextlib.contextmanager
def dead_server(kind: str) -> Iterator[str]:
    """A loopback URL at which nobody listens, or where the connection is taken and never answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if kind == "silent":
            server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_an_unreachable_server_neither_stops_nor_delays_a_run(kind, run, monkeypatch, caplog):
    monkeypatch.setattr(mirror, "START_GRACE_S", 1.0)
    with dead_server(kind) as url, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        mirrors = build_trackers(ONLINE, run, "k4", CONFIG)
        times = []
        for step in range(10, 2001, 10):
            start = time.perf_counter()
            mirrors.log(step, {"loss": 1 / step})
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        mirrors.close()
        closing_s = time.perf_counter() - start
    assert sorted(times)[len(times) // 2] < 1e-3
    assert closing_s < 3.0
    [record] = caplog.records
    assert record.getMessage().startswith("W&B is switched off, the run goes on")


def test_without_a_key_the_reason_is_given_at_once_and_nobody_is_asked(run, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with caplog.at_level(logging.WARNING):
        mirrors = build_trackers(ONLINE, run, "k4", CONFIG)
        mirrors.log(10, {"loss": 1.0})
        mirrors.close()
    assert "No API key configured" in caplog.text


def test_a_mirror_that_dies_is_one_warning_in_the_middle_of_the_run(run, caplog):
    with caplog.at_level(logging.WARNING):
        mirrors = build_trackers(OFFLINE, run, "k4", CONFIG)
        tracker = mirrors._trackers["W&B"]
        tracker._process.kill()
        for step in range(10, 3001, 10):
            mirrors.log(step, {"loss": 1 / step})
            time.sleep(0.001)
        mirrors.close()
    [record] = caplog.records
    assert "mirror.log" in record.getMessage()


def read_records(file):
    """What an offline run hands to the service, as W&B's own program reads it."""
    wandb = Path(sys.executable).parent / "wandb"
    command = [wandb, "leet", "inspect", "--json", file]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in shown.splitlines()]


def test_the_config_the_names_and_the_run_id_arrive(run):
    mirrors = build_trackers(OFFLINE, run, "k4", CONFIG)
    mirrors.log(10, {"loss": 1.0})
    mirrors.close()
    [file] = run.path.glob("wandb/offline-run-*/*.wandb")
    records = read_records(file)
    [facts] = [record["run"] for record in records if record["type"] == "run"]
    assert (facts["run_id"], facts["project"], facts["run_group"], facts["display_name"]) == (
        "1a2b3c4d",
        "paribus",
        "g",
        "k4",
    )
    sent = facts["config"]["update"]
    assert {key: sent[key] for key in CONFIG} == CONFIG
    assert records[-1]["exit"]["exit_code"] == 0


def test_another_runs_id_and_the_step_of_the_checkpoint_are_lost(run):
    """`id` goes on in that W&B run; `-step=N` names the checkpoint that this attempt begins from."""
    (run.checkpoints / "step-000040").mkdir(parents=True)
    track = TrackConfig(wandb=WandbConfig(project="paribus", mode="offline", id="older", step_in_name=True))
    mirrors = build_trackers(track, run, "k4", CONFIG)
    mirrors.log(50, {"loss": 1.0})
    mirrors.close()
    [file] = run.path.glob("wandb/offline-run-*-older/*.wandb")
    [facts] = [record["run"] for record in read_records(file) if record["type"] == "run"]
    assert (facts["run_id"], facts["display_name"]) == ("older", "k4-step=40")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 129])
def test_an_id_that_no_run_can_have(name):
    with pytest.raises(ValueError, match="the id of a W&B run is expected"):
        WandbConfig(project="paribus", id=name)
