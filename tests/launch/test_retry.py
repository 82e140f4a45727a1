import json
import os
import signal
import subprocess
import sys
import time

import pytest

from paribus import experiment
from paribus.errors import Diverged
from paribus.launch.retry import Retries, with_retries
from tiny_runs import coins_run

KILLED = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]


def ends_of(run):
    return [
        (attempt["exit_code"], attempt["reason"]) for attempt in json.loads(run.provenance_path.read_text())["attempts"]
    ]


def test_a_trainer_that_dies_twice_waits_b_then_2b_and_succeeds_with_a_record_an_attempt(tmp_path, capsys):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    began, ended = [], []

    def attempt():
        began.append(time.monotonic())
        code = 0
        if len(began) < 3:
            experiment.record_attempt(run, config, {})  # as a trainer does when it begins
            code = 128 - subprocess.run(KILLED, check=False).returncode
        else:
            experiment.run(run, config)
        ended.append(time.monotonic())
        return code

    assert with_retries(run, config, attempt, Retries(10, 0.4)) == 0
    assert run.is_done
    waits = [start - end for start, end in zip(began[1:], ended, strict=False)]
    told = [record["retried_after_s"] for record in json.loads(run.provenance_path.read_text())["attempts"]]
    assert told[2] is None
    for waited, wait_s, nominal in zip(waits, told, (0.4, 0.8), strict=False):
        assert nominal <= wait_s < 1.25 * nominal
        assert wait_s <= waited < wait_s + 0.4  # a busy machine may add to it
    assert told[1] != 2 * told[0]  # each wait has a jitter of its own
    assert ends_of(run) == [(137, "killed by SIGKILL"), (137, "killed by SIGKILL"), (0, "done")]
    said = capsys.readouterr().err
    assert f"killed by SIGKILL; attempt 2 in {told[0]:.1f} s" in said
    assert f"killed by SIGKILL; attempt 3 in {told[1]:.1f} s" in said


def test_one_that_never_succeeds_is_given_up_and_marked_failed(tmp_path):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)

    def attempt():
        run.set_status("running")
        return 128 - subprocess.run(KILLED, check=False).returncode

    assert with_retries(run, config, attempt, Retries(2, 0.01)) == 137
    assert len(ends_of(run)) == 3
    assert run.status()["state"] == "failed"
    assert run.status()["reason"] == "killed by SIGKILL, in 3 attempts"


@pytest.mark.parametrize("code", [2, 128 + signal.SIGINT, 128 + signal.SIGTERM])
def test_mistakes_and_stops_are_tried_once(tmp_path, code):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    codes = []
    assert with_retries(run, config, lambda: codes.append(code) or code, Retries(10, 0.01)) == code
    assert codes == [code]


def test_a_loss_that_is_not_finite_is_tried_once(tmp_path):
    run, config = coins_run(tmp_path, "train.optimizer.lr=1e30", "train.clip_norm=null")
    experiment.hold(run, config)
    tried = []

    def attempt():
        tried.append(os.getpid())
        try:
            experiment.run(run, config)
        except Diverged:
            return 1
        return 0

    assert with_retries(run, config, attempt, Retries(10, 0.01)) == 1
    assert len(tried) == 1
    assert "not finite" in ends_of(run)[0][1]


def test_another_run_waits_another_time(tmp_path):
    waits = []
    for seed in (0, 1):
        run, config = coins_run(tmp_path, f"seeds.weights={seed}")
        experiment.hold(run, config)
        assert with_retries(run, config, lambda: 1, Retries(1, 0.001)) == 1
        waits.append(json.loads(run.provenance_path.read_text())["attempts"][0]["retried_after_s"])
    assert waits[0] != waits[1]
