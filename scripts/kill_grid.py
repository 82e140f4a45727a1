"""Kill grid programs with SIGKILL at random moments, resume each, and compare it bit for bit with one that was never killed.

python scripts/kill_grid.py 30        prints "30 of 30 ..." and exits 0, or names the trials that differ and exits 1

In turn: a grid on fixed data, where blocks and epochs end inside the run, one on fresh samples with Adam, and a search.
Every attempt is a process of its own; each trial is killed one to three times, anywhere between its first and last byte.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attempts

from paribus import config as configs
from paribus.grid import programs, run
from paribus.grid.config import GridRun
from paribus.grid.results import evaluations, losses, read_runs
from paribus.launch.local import PRELOAD_GRID

MOST_TRIES = 20
DIGEST = "digest.json"
SHARED: dict[str, Any] = {"study": "kill", "launch": {"checkpoint_every_s": 0.02, "progress": False}}
FIXED = {
    **SHARED,
    "name": "fixed",
    "data": {"kind": "polynomial", "num_samples": 1000, "num_heldout": 500},  # 15 steps an epoch
    "model": {"kind": "mlp", "width": 32},
    "record": {"evaluate_every": 70, "probes": ["weight_change"], "snapshots": True},
    "train": {"eta": 1.0, "batch_size": 64, "budget": {"steps": 500}, "scale_by_gamma": False},
}
FRESH = {
    **FIXED,
    "name": "fresh",
    "data": {"kind": "linear", "input_dim": 50, "num_heldout": 500},
    "train": {"eta": 1.0, "batch_size": 48, "budget": {"steps": 500}, "optimizer": {"kind": "adam"}},
}
SEARCH = {
    **FIXED,
    "name": "search",
    "record": {},
    "train": {"eta": {"kind": "bisection", "tolerance_log2": 1.0}, "batch_size": 64, "budget": {"steps": 200}},
}
ETAS, GAMMAS = (0.01, 0.1, 1.0, 10.0), (0.1, 1.0, 10.0)


def grid(mapping: dict[str, Any], folder: Path) -> list[GridRun]:
    """The runs of a trial, below `folder`."""
    base = configs.from_mapping({**mapping, "paths": {"runs": str(folder)}}, GridRun, "kill_grid.py")
    etas: Any = ETAS if isinstance(base.train.eta, float) else [base.train.eta]
    points = [(gamma, eta) for gamma in GAMMAS for eta in etas]
    return [programs.at(base, name=f"r{i}", gamma=gamma, eta=eta) for i, (gamma, eta) in enumerate(points)]


def attempt(mapping: dict[str, Any], folder: Path) -> int:
    """Train or resume the trial below `folder` in a new process; return its pid."""

    def train() -> None:
        for placed in programs.place_all(grid(mapping, folder)):
            run.run(*placed)
        write_digest(folder)

    return attempts.begin(folder, train)


def finish(mapping: dict[str, Any], folder: Path) -> dict[str, str]:
    """Let the trial come to its end; the hash of everything that must not depend on interruptions."""
    attempts.await_end(folder, attempt(mapping, folder))
    return dict(json.loads((folder / DIGEST).read_text()))


def write_digest(folder: Path) -> None:
    """In the attempt's own process: reading tables starts threads, which a fork of this one would miss."""
    (program,) = folder.glob("kill/*")
    tables = {
        "runs": read_runs(program),
        "losses": losses(program).sort("id", "step"),
        "evaluations": evaluations(program).sort("id", "metric", "step"),
    }
    found = {name: table.write_csv(float_precision=12).encode() for name, table in tables.items()}
    found |= {path.name: path.read_bytes() for path in sorted((program / "weights").glob("*"))}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    (folder / DIGEST).write_text(json.dumps(digests))


def trial(number: int, mapping: dict[str, Any], folder: Path, duration_s: float) -> tuple[dict[str, str], int]:
    """Kill one trial at one to three random times, then let it finish: its result, and how often it was killed."""
    rng = random.Random(number)
    for _ in range(MOST_TRIES):
        folder.mkdir()
        kills = 0
        for _ in range(rng.randrange(1, 4)):
            pid = attempt(mapping, folder)
            time.sleep(rng.uniform(0, duration_s))
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                kills += 1
        if kills:
            return finish(mapping, folder), kills
        shutil.rmtree(folder)
    sys.exit(f"trial {number}: ended before each of {MOST_TRIES} kills; nothing was tested")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="?", default=30)
    trials = parser.parse_args().trials
    for module in PRELOAD_GRID:  # once: an attempt is a fork, and begins in milliseconds
        importlib.import_module(module)
    kinds = [FIXED, FRESH, SEARCH]
    with tempfile.TemporaryDirectory() as name:
        root, expected, duration_s, kills, different = Path(name), [], [], 0, []
        for i, mapping in enumerate(kinds):
            (root / f"reference{i}").mkdir()
            start = time.monotonic()
            expected.append(finish(mapping, root / f"reference{i}"))
            duration_s.append(time.monotonic() - start)
        for number in range(trials):
            kind = number % len(kinds)
            found, times = trial(number, kinds[kind], root / str(number), duration_s[kind])
            kills += times
            if found != expected[kind]:
                different.append(number)
            shutil.rmtree(root / str(number))
            print(f"\r{number + 1 - len(different)} of {number + 1}", end="", file=sys.stderr, flush=True)
    print(f"\n{kills} kills", file=sys.stderr)
    print(f"{trials - len(different)} of {trials} programs, killed and resumed, are bit-identical")
    sys.exit(f"trials that differ: {different}" if different else 0)


if __name__ == "__main__":
    main()
