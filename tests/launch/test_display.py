import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def terminal_output(tmp_path: Path) -> str:
    """What a sweep of two runs draws on a terminal of 120 columns."""
    from test_local import SWEEP

    reader, terminal = pty.openpty()
    sweep = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(tmp_path), "2", "slow", "failed"],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE), "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(terminal)
    drawn = b""
    while sweep.poll() is None or drawn[-1:] != b"\n":
        try:
            drawn += os.read(reader, 1 << 16)
        except OSError:  # Linux: the other end is closed
            break
    os.close(reader)
    sweep.wait()
    return drawn.decode()


def test_a_terminal_shows_the_sweep_each_active_run_and_then_what_failed(terminal_output):
    assert "runs" in terminal_output
    assert "2/2" in terminal_output
    assert any(f"{step}/20" in terminal_output for step in range(1, 20))  # the position of a run being trained
    assert "loss 0." in terminal_output
    *_, end = terminal_output.split("the end of")
    assert "| fake_run: this run is meant to have failed" in end
