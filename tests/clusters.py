"""Real clusters on this machine: Slurm through scripts/start_slurm.py, and Ray through its own `ray start`."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from seaweed import free_ports

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0  # of Ray: about 8 s on an idle machine


def start_slurm() -> ModuleType:
    """scripts/start_slurm.py as a module."""
    spec = importlib.util.spec_from_file_location("start_slurm", ROOT / "scripts" / "start_slurm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def slurm(folder: Path) -> Iterator[str]:
    """A Slurm of its own; the path of its slurm.conf. Skips where Debian's packages are not installed."""
    script = start_slurm()
    if lacking := script.missing():
        pytest.skip(f"no {', '.join(lacking)}: apt-get install slurm-wlm munge slurmdbd mariadb-server")
    try:
        yield script.start(folder)
    finally:
        script.stop(folder)


@contextmanager
def ray(num_cpus: int) -> Iterator[str]:
    """A Ray cluster of its own, as somebody else would have started it; its address. Tasks find tests/launch."""
    [port] = free_ports(1)
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}"]
    command += [f"--num-cpus={num_cpus}", "--include-dashboard=false", "--disable-usage-stats"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "launch"), "RAY_AUTH_MODE": "disabled"}
    head = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert head.stdout is not None
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        for line in head.stdout:
            assert time.monotonic() < deadline, line
            if "Ray runtime started" in line:
                break
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.communicate()
