import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_test.py"


@pytest.mark.slow
@pytest.mark.parametrize(("run", "num"), [("coins", 6), ("dynamic", 4)])
def test_runs_killed_at_random_moments_end_elsewhere(run, num):
    done = subprocess.run([sys.executable, SCRIPT, str(num), "--run", run], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{num} of {num} runs, killed and resumed, are bit-identical\n"
