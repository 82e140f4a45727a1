import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_test.py"


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_elsewhere():
    done = subprocess.run([sys.executable, SCRIPT, "6"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6 of 6 runs, killed and resumed, are bit-identical\n"
