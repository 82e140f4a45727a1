"""Where a run came from: code, packages, hardware, command, and the fingerprints of what it read."""

import getpass
import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

MAX_DIFF_CHARS = 200_000  # a longer diff is cut; its hash is always recorded


def attempt(command: list[str] | None = None, **facts: Any) -> dict[str, Any]:
    """Describe this process: one record an attempt, so that a resumed run shows every machine that worked on it."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(command if command is not None else [*_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "host": socket.gethostname(),
        "user": _user(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "code": code(Path(__file__).parent),
        "packages": packages(),
        **facts,
    }


def code(folder: Path) -> dict[str, Any]:
    """The commit that `folder` stands at, and what differs from it; {} outside a git checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    diff = _git(folder, "diff", "HEAD")
    return {
        "commit": commit.strip(),
        "dirty": bool(diff),
        **({"diff_sha256": hashlib.sha256(diff.encode()).hexdigest(), "diff": diff[:MAX_DIFF_CHARS]} if diff else {}),
    }


def packages() -> dict[str, str]:
    """Name -> version of everything installed."""
    return dict(sorted((d.metadata["Name"], d.version) for d in distributions()))


def _program(script: Path) -> list[str]:
    """What a shell calls the program that Python runs as `script`."""
    if script.name == "__main__.py":  # `python -m PACKAGE` names this file
        return ["python", "-m", script.parent.name]
    return [script.name] if script.suffix != ".py" else ["python", str(script)]


def _git(folder: Path, *args: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""  # a diff may hold any bytes


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
