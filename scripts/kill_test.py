"""Kill runs with SIGKILL at random moments, resume each, and compare it bit for bit with one that was never interrupted.

python scripts/kill_test.py 50        prints "50 of 50" and exits 0, or names the runs that differ and exits 1
python scripts/kill_test.py 20 --run dynamic        the same of a run whose insertions controllers decide as it goes

The kills come in turn at a random time, while a checkpoint is being written, while an evaluation runs and, in the run
that has some, while a controller decides; each run may be killed several times before it is let through. Every attempt
is a process of its own.
"""

import argparse
import hashlib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attempts
from kill_runs import CHECKPOINT_EVERY, CONTROL_EVERY, EVALUATE_EVERY, RUNS, STEPS

from paribus import config as configs
from paribus.experiment import create, run
from paribus.launch.local import PRELOAD
from paribus.run_config import RunConfig
from paribus.rundir import RunDir

MOST_TRIES = 10
Mapping = dict[str, Any]


def attempt(folder: Path, mapping: Mapping) -> int:
    """Train or resume the run below `folder` in a new process; return its pid."""

    def train() -> None:
        config = configs.from_mapping({**mapping, "paths": {"runs": str(folder)}}, RunConfig, "kill_test.py")
        run(create(config), config)

    return attempts.begin(folder, train)


def finish(folder: Path, mapping: Mapping) -> RunDir:
    """Let the run below `folder` come to its end."""
    attempts.await_end(folder, attempt(folder, mapping))
    return directory(folder)


def directory(folder: Path) -> RunDir:
    return RunDir(next(folder.glob("kill-test/*-*"), folder / "absent"))


def result(run_dir: RunDir) -> dict[str, str]:
    """The hash of everything that must not depend on interruptions."""
    kept = [p for p in sorted(run_dir.checkpoints.rglob("*.safetensors")) if p.is_file()]
    decided = [p for folder in (run_dir.insertions, run_dir.control) for p in sorted(folder.rglob("*")) if p.is_file()]
    files = [run_dir.metrics_path, run_dir.stream_path, *kept, *decided, *sorted(run_dir.evals.rglob("*.json"))]
    return {str(f.relative_to(run_dir.path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def wait_for_moment(kind: str, folder: Path, pid: int, rng: random.Random) -> bool:
    """Wait until the moment of the kill; False when the run ended before it came.

    Moments are anchored in the run's own progress, so that a busy machine does not move them past its end."""
    run_dir = directory(folder)
    step, evaluation = rng.randrange(STEPS), rng.choice(range(EVALUATE_EVERY, STEPS, EVALUATE_EVERY))
    moments: dict[str, Callable[[], bool]] = {
        "time": lambda: _steps(run_dir) >= step,
        "checkpoint": lambda: _steps(run_dir) >= step - CHECKPOINT_EVERY and _is_writing(run_dir),
        "evaluation": lambda: _steps(run_dir) == evaluation,
        "controller": lambda: _steps(run_dir) >= step - CONTROL_EVERY and _has_child(pid),
    }
    while not moments[kind]():
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return False
        run_dir = run_dir if run_dir.path.exists() else directory(folder)
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, {"time": 0.05, "controller": 0.1}.get(kind, 0.01)))
    return True


def _steps(run_dir: RunDir) -> int:
    return run_dir.stream_path.stat().st_size // 8 if run_dir.stream_path.exists() else 0


def _has_child(pid: int) -> bool:
    """Whether a process has called another one: a controller's script runs."""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _is_writing(run_dir: RunDir) -> bool:
    return run_dir.checkpoints.exists() and any(".tmp" in p.name for p in run_dir.checkpoints.iterdir())


def trial(number: int, folder: Path, mapping: Mapping, counts: dict[str, int]) -> RunDir:
    """Kill one run at one to three moments, then let it finish. A run that ended before any of them begins anew."""
    rng = random.Random(number)
    kinds = ["time", "checkpoint", "evaluation", *(["controller"] if "insertions" in mapping else [])]
    for _ in range(MOST_TRIES):
        folder.mkdir()
        kills = 0
        for kind in [kinds[number % len(kinds)], *rng.choices(kinds, k=rng.randrange(3))]:
            pid = attempt(folder, mapping)
            if wait_for_moment(kind, folder, pid, rng):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                counts[kind] = counts.get(kind, 0) + 1
                kills += 1
        if kills:
            return finish(folder, mapping)
        shutil.rmtree(folder)
    sys.exit(f"run {number}: ended before each of {MOST_TRIES} kills; nothing was tested")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=50)
    parser.add_argument("--run", choices=sorted(RUNS), default="coins")
    arguments = parser.parse_args()
    runs = arguments.runs
    for module in PRELOAD:  # once: an attempt is a fork, and begins in milliseconds
        importlib.import_module(module)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "reference").mkdir()
        with multiprocessing.get_context("fork").Pool(1) as pool:  # no thread of a tokenizer is left to be forked
            mapping = pool.apply(RUNS[arguments.run], (root,))
        start = time.monotonic()
        expected = result(finish(root / "reference", mapping))
        duration_s = time.monotonic() - start
        different = []
        for number in range(runs):
            if result(trial(number, root / str(number), mapping, counts)) != expected:
                different.append(number)
            print(f"\r{number + 1 - len(different)} of {number + 1}", end="", file=sys.stderr, flush=True)
    kills = ", ".join(f"{count} at {kind}" for kind, count in sorted(counts.items()))
    print(f"\n{sum(counts.values())} kills ({kills}); a whole run takes {duration_s:.1f} s", file=sys.stderr)
    print(f"{runs - len(different)} of {runs} runs, killed and resumed, are bit-identical")
    if different:
        print(f"these differ: {different}", file=sys.stderr)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
