import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from paribus.errors import RunError
from paribus.rundir import RunDir, file_sha256, identity, write_bytes, write_json


def test_identity_ignores_where_and_how_and_the_order_of_keys_but_nothing_else():
    run = {"name": "a", "train": {"lr": 1.0, "steps": 3}, "launch": {"threads": 1}, "paths": {"runs": "x"}}
    same = {"paths": {"runs": "y"}, "train": {"steps": 3, "lr": 1.0}, "name": "a", "track": {}}
    other = {"name": "a", "train": {"lr": 1.0, "steps": 4}}
    assert identity(run) == identity(same)
    assert identity(run) != identity(other)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path):
    with pytest.raises(RunError, match=r"absent/a\.bin: cannot be written: No such file or directory"):
        write_bytes(tmp_path / "absent" / "a.bin", b"x")


def test_sha256_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert (
        file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2


def test_done_is_marked_last_and_taken_away_by_any_other_state(tmp_path):
    run = RunDir(tmp_path / "run")
    assert run.status() == {}
    with run.lock():
        run.set_status("running", step=3)
        assert (run.status()["state"], run.status()["step"], run.is_done) == ("running", 3, False)
        run.set_status("done")
        assert run.is_done
        run.set_status("failed", "because")
    assert not run.is_done
    assert run.status()["reason"] == "because"


HOLD = """
import sys, time
from paribus.rundir import RunDir
with RunDir(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_looking_at_a_lock_never_costs_a_runner_its_turn(tmp_path):
    """`is_locked` takes the lock for an instant; 200 turns against a thread that looks all the time."""
    run = RunDir(tmp_path / "run")
    with run.lock():
        pass
    stop = threading.Event()
    looker = threading.Thread(target=lambda: [run.is_locked() for _ in iter(stop.is_set, True)])
    looker.start()
    try:
        for _ in range(200):
            with run.lock():
                pass
    finally:
        stop.set()
        looker.join()


def test_two_processes_never_hold_one_run_and_a_killed_one_lets_go(tmp_path):
    run = RunDir(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert run.is_locked()
    with pytest.raises(RunError, match=f"in use by process {holder.pid} on "), run.lock():
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    for _ in range(50):
        if not run.is_locked():
            break
        time.sleep(0.1)
    with run.lock():
        assert run.is_locked()
