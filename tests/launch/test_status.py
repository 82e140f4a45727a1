import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paribus.errors import ConfigError, RunError
from paribus.launch.status import duration, find_runs, show_status, view
from paribus.rundir import RunDir

SHOW = "import sys; from pathlib import Path; from paribus.launch.status import show_status\n"


def make(folder: Path, name: str, state: str | None = None, reason: str = "", **facts: object) -> RunDir:
    run = RunDir(folder / "ergodic" / name)
    run.path.mkdir(parents=True)
    run.config_path.write_text("study: ergodic\n")
    if state is not None:
        run.set_status(state, reason, **facts)  # type: ignore[arg-type]
    return run


def log(run: RunDir, steps: int, seconds_per_step: float = 0.5) -> None:
    """What a run of `steps` steps has logged, and the beginning of a line that it is writing."""
    logged = range(10, steps + 1, 10)
    lines = [json.dumps({"step": step, "loss": 10 / step}) for step in logged]
    lines += [json.dumps({"step": steps, "evaluation/validation/loss": 3.0})]
    run.metrics_path.write_text("\n".join(lines) + '\n{"step": 9')
    times = {"steps": 10, "tokens_per_s": 1e5, "step_s": 6 * seconds_per_step, "actions_s": 4 * seconds_per_step}
    run.timings_path.write_text("".join(json.dumps({"step": step, **times}) + "\n" for step in logged))


def test_a_run_whose_process_is_gone_is_not_shown_as_running(tmp_path):
    alive, dead = make(tmp_path, "alive-00000000", "running"), make(tmp_path, "dead-00000000", "running")
    with alive.lock():
        assert (view(alive).state, view(dead).state) == ("running", "interrupted")
    assert view(alive).state == "interrupted"


def test_the_time_left_is_the_steps_left_at_the_recent_pace(tmp_path):
    run = make(tmp_path, "k4-00000000", "running", num_steps=1000)
    log(run, 400)
    with run.lock():
        seen = view(run)
    assert (seen.step, seen.num_steps, seen.loss, seen.left_s) == (400, 1000, 10 / 400, pytest.approx(600 * 0.5))
    assert seen.position == "400/1,000"
    assert seen.age_s == pytest.approx(0.0, abs=5.0)


def test_a_long_log_is_read_from_its_end(tmp_path):
    run = make(tmp_path, "k4-00000000", "running", num_steps=100_000)
    log(run, 50_000)
    assert run.metrics_path.stat().st_size > 1 << 16
    assert (view(run).step, view(run).loss) == (50_000, 10 / 50_000)


def test_json_shows_every_run_with_its_reason_and_k2_before_k11(tmp_path, capsys):
    make(tmp_path, "k11-00000000", "done", step=100)
    make(tmp_path, "k2-00000000", "diverged", "step 7: the loss is not finite")
    make(tmp_path, "k4-00000000")
    make(tmp_path, "notes")  # a config.yaml that is no run
    show_status([tmp_path], as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [(Path(run["path"]).name, run["state"], run["reason"]) for run in shown] == [
        ("k2-00000000", "diverged", "step 7: the loss is not finite"),
        ("k4-00000000", "waiting", ""),
        ("k11-00000000", "done", ""),
    ]
    assert (shown[2]["step"], shown[2]["num_steps"]) == (100, 100)


def test_the_table_names_reasons_counts_states_and_says_what_to_type_next(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    make(tmp_path, "k2-00000000", "failed", "no space left on the device")
    make(tmp_path, "k4-00000000", "done", step=100)
    show_status([tmp_path])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"run in {tmp_path}/ergodic")
    assert "no space left on the device" in next(line for line in lines if line.startswith("k2"))
    assert lines[-2].strip() == "1 failed, 1 done"
    assert lines[-1] == f"next: paribus train {tmp_path}/ergodic/k2-00000000"


def test_the_same_run_found_twice_is_shown_once(tmp_path):
    run = make(tmp_path, "k4-00000000", "done")
    assert [found.path for found in find_runs([tmp_path, run.path])] == [run.path]


def test_a_folder_without_runs_is_an_error_and_not_an_empty_table(tmp_path):
    with pytest.raises(RunError, match=r"absent: no run directory here"):
        show_status([tmp_path / "absent"])
    with pytest.raises(ConfigError, match="--watch and --json exclude each other"):
        show_status([tmp_path], watch=True, as_json=True)


def test_watching_follows_a_run_until_ctrl_c(tmp_path):
    run = make(tmp_path, "k4-00000000", "stopped", step=10)
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
    code = heard + SHOW + "show_status([Path(sys.argv[1])], watch=True)"
    watcher = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "120"},  # as on a terminal
    )
    assert watcher.stdout is not None
    read_until(watcher.stdout.fileno(), "stopped")
    run.set_status("failed", "the reason of the day", step=10)
    read_until(watcher.stdout.fileno(), "the reason of the day")
    watcher.send_signal(signal.SIGINT)
    watcher.communicate()
    assert watcher.returncode == 0


def read_until(file: int, text: str, timeout_s: float = 20.0) -> None:
    seen, deadline = "", time.monotonic() + timeout_s
    while text not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(file, 1 << 16).decode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.4, "0 s"), (59.6, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (273600, "3 d 4 h")],
)
def test_durations_round_to_two_units(seconds, text):
    assert duration(seconds) == text


def test_a_directory_that_cannot_be_read_is_shown_with_the_reason_and_never_named_as_next(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    make(tmp_path, "broken-00000000", "done").config_path.write_text("study: [a\n")
    make(tmp_path, "lost-00000000", "failed", "no space").config_path.unlink()
    make(tmp_path, "k4-00000000", "done", step=100)
    show_status([tmp_path])
    shown = capsys.readouterr().out
    assert "2 unreadable, 1 done" in shown
    assert "config.yaml is missing; bring it back as it was" in shown
    assert "config.yaml: not valid YAML" in shown
    assert shown.splitlines()[-1] == f"next: paribus report {tmp_path}"
