"""What every tracker owes the run, asked of each through real files and processes."""

import functools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tracked_attempt import CONFIG, metrics

from paribus.rundir import RunDir
from paribus.track.config import TrackConfig, WandbConfig
from paribus.track.tracker import build_trackers

Points = list[tuple[int, str, float]]


def read_wandb(run: Path) -> Points:
    """All history records of all attempts, in the order in which `wandb sync` uploads them."""
    return [
        (item["_step"], name, value)
        for record in wandb_records(run)
        if record["type"] == "history"
        for item in [record["history"]["item"]]
        for name, value in item.items()
        if not name.startswith("_")
    ]


@functools.cache
def wandb_records(run: Path) -> list[dict]:
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json"]
    outputs = [subprocess.run([*command, file], capture_output=True, text=True, check=True).stdout for file in files]
    return [json.loads(line) for output in outputs for line in output.splitlines()]


def read_tensorboard(run: Path) -> Points:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [(e.step, tag, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]


class Case:
    def __init__(self, config: TrackConfig, folder: str, read: Callable[[Path], Points]) -> None:
        self.config, self.folder, self.read = config, folder, read

    def attempt(self, run: Path, first: int, last: int, end: str = "close") -> subprocess.Popen[str]:
        """Start an attempt in an empty working folder, with an empty home."""
        for name in ("cwd", "home"):
            (run.parent / name).mkdir(exist_ok=True)
        run.mkdir(exist_ok=True)
        return subprocess.Popen(
            [
                sys.executable,
                Path(__file__).parent / "tracked_attempt.py",
                run,
                self.config.model_dump_json(),
                str(first),
                str(last),
                end,
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=run.parent / "cwd",
            env={**os.environ, "HOME": str(run.parent / "home")},
        )


CASES = {
    "wandb": Case(TrackConfig(wandb=WandbConfig(project="paribus", group="g", mode="offline")), "wandb", read_wandb),
    "tensorboard": Case(TrackConfig(tensorboard=True), "tensorboard", read_tensorboard),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def expected(last: int) -> Points:
    return sorted((step, name, value) for step in range(10, last + 1, 10) for name, value in metrics(step).items())


def assert_same(found: Points, last: int) -> None:
    assert [(step, name) for step, name, _ in sorted(found)] == [(step, name) for step, name, _ in expected(last)]
    values = [value for *_, value in sorted(found)]
    assert values == pytest.approx([value for *_, value in expected(last)], rel=1e-6)  # TensorBoard keeps float32


def test_a_killed_and_resumed_run_shows_every_point_once_and_touches_nothing_else(case, tmp_path):
    run = tmp_path / "k4-1a2b3c4d"
    killed = case.attempt(run, 10, 70, end="hang")  # its checkpoint was made at step 40
    assert killed.stdout is not None
    assert killed.stdout.readline() == "logged\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_until(lambda: case.folder != "wandb" or (run / "wandb" / "last-step").exists())

    output, _ = case.attempt(run, 50, 100).communicate(timeout=60)
    assert output == "False []\n"  # no torch was imported; nothing lies in the working folder
    assert_same(case.read(run), 100)
    if case.folder == "wandb":  # the killed attempt is not shown as finished
        assert [record["exit"]["exit_code"] for record in wandb_records(run) if record["type"] == "exit"] == [1, 0]
    assert list((tmp_path / "home").iterdir()) == []
    assert [path.name for path in run.iterdir()] == [case.folder]


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_tracker_that_cannot_write_is_one_warning_and_the_others_go_on(case, tmp_path, caplog):
    run = tmp_path / "k4-1a2b3c4d"
    run.mkdir()
    (run / case.folder).write_text("a file where the tracker wants its folder")
    other = TrackConfig(tensorboard=True, wandb=case.config.wandb) if case.folder == "wandb" else case.config
    with caplog.at_level(logging.WARNING):
        mirrors = build_trackers(other, RunDir(run), "k4", CONFIG)
        for step in range(10, 101, 10):
            mirrors.log(step, metrics(step))
        mirrors.close()
    [record] = caplog.records
    assert "switched off, the run goes on" in record.getMessage()
    assert "\n" not in record.getMessage()
    if case.folder == "wandb":
        assert_same(read_tensorboard(run), 100)
