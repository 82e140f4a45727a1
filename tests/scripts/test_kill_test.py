import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize(("run", "num"), [("coins", 6), ("dynamic", 4)])
def test_runs_killed_at_random_moments_end_elsewhere(run, num):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "kill_test.py", str(num), "--run", run], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{num} of {num} runs, killed and resumed, are bit-identical\n"


@pytest.mark.slow
def test_grid_programs_killed_at_random_moments_end_elsewhere():
    done = subprocess.run([sys.executable, SCRIPTS / "kill_grid.py", "6"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6 of 6 programs, killed and resumed, are bit-identical\n"
