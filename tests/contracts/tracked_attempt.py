"""A run's attempt as a process: logs the metrics of STEPS to the trackers of a run directory, then closes or waits.

python tracked_attempt.py RUNDIR TRACKERS FIRST_STEP LAST_STEP close|hang"""

import sys
import time
from pathlib import Path

from paribus.rundir import RunDir
from paribus.track.config import TrackConfig
from paribus.track.tracker import build_trackers

CONFIG = {"name": "k4", "train": {"optimizer": {"lr": 3e-4}}}


def metrics(step: int) -> dict[str, float]:
    """What the run logs at a step, a function of the step alone as exact resume promises."""
    line = {"loss": 1.0 + 1.0 / step, "lr": 3e-4 * step}
    return line | ({"evaluation/validation/loss": 2.0 - 1.0 / step} if step % 20 == 0 else {})


def main(folder: str, trackers: str, first: int, last: int, end: str) -> None:
    track = TrackConfig.model_validate_json(trackers)
    mirrors = build_trackers(track, RunDir(folder), "k4", CONFIG)
    for step in range(first, last + 1, 10):
        mirrors.log(step, metrics(step))
    if end == "hang":
        time.sleep(0.3)  # queues drain in milliseconds
        print("logged", flush=True)
        time.sleep(60)
    mirrors.close()
    print("torch" in sys.modules, sorted(p.name for p in Path.cwd().iterdir()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
