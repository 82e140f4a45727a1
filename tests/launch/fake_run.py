"""A small real run, for the launchers: `python -m fake_run RUNDIR BEHAVIOUR`.

It locks its directory, counts steps, stops on SIGTERM with its step kept, and goes on from there. Every attempt writes
`begin` and `end` to attempts.txt while it holds the lock."""

import json
import os
import signal
import sys
import time

from paribus.errors import ParibusError
from paribus.rundir import RunDir
from paribus.train.signals import Interrupts

NUM_STEPS = 20


def train(run: RunDir, behaviour: str) -> int:
    attempts = run.path / "attempts.txt"
    with run.lock(), Interrupts() as interrupts, attempts.open("a") as ledger:
        if run.is_done:  # by another process, since the launcher looked
            return 0
        print("begin", os.environ["OMP_NUM_THREADS"], file=ledger, flush=True)
        first = run.status().get("step", 0)
        run.set_status("running", num_steps=NUM_STEPS)
        pause_s = {"slow": 0.1, "patient": 2.0 if first == 0 else 0.002}.get(behaviour, 0.002)
        for step in range(first + 1, NUM_STEPS + 1):
            with run.metrics_path.open("a") as metrics:
                print(json.dumps({"step": step, "loss": 1 / step}), file=metrics)
            print(f"step {step}", flush=True)
            if step == NUM_STEPS // 2:
                misbehave(run, behaviour, attempts.read_text().count("begin"))
            if interrupts.received is not None:
                run.set_status("stopped", f"{interrupts.received.name} after step {step}", step=step)
                print("end", file=ledger, flush=True)
                return 128 + interrupts.received
            time.sleep(pause_s)
        run.set_status("done", step=NUM_STEPS)
        print("end", file=ledger, flush=True)
    return 0


def misbehave(run: RunDir, behaviour: str, attempt: int) -> None:
    if behaviour == "killed" or (behaviour == "killed-once" and attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour in ("failed", "diverged"):
        run.set_status(behaviour, f"this run is meant to have {behaviour}", step=NUM_STEPS // 2)
        raise ParibusError(f"this run is meant to have {behaviour}")
    if behaviour == "exits-255":
        os._exit(255)
    if behaviour == "silent":
        raise ParibusError("a mistake that no status tells")


if __name__ == "__main__":
    try:
        sys.exit(train(RunDir(sys.argv[1]), sys.argv[2]))
    except ParibusError as error:
        print(f"fake_run: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
