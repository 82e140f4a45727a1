"""A run that crashes is begun again from its newest checkpoint, after longer and longer waits; each attempt is recorded."""

import itertools
import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from paribus import experiment, treated
from paribus.data.generators import generator
from paribus.errors import ParibusError
from paribus.run_config import RunConfig
from paribus.rundir import RunDir, write_json

JITTER = 0.25  # of a wait, at most: runs that crashed together do not come back together
_MISTAKE, _STOPPED = ParibusError.exit_code, (128 + signal.SIGINT, 128 + signal.SIGTERM)


class Retries(NamedTuple):
    most: int  # after the first attempt
    wait_s: float  # before the first of them; twice as long before each further one


def with_retries(directory: RunDir, config: RunConfig, attempt: Callable[[], int], retries: Retries) -> int:
    """Call `attempt` until it does not crash, at most 1 + retries.most times; return its last exit code.

    A mistake of the user (exit 2), a stop that was asked for and a loss that is not finite would only happen again: they
    end it. provenance.json tells of every attempt how it ended."""
    for number in itertools.count(1):
        status = directory.status()
        begun = len(_attempts(directory))
        code = attempt()
        found = directory.status()
        reason = _reason(code, found if found != status else {})
        if code == _MISTAKE:
            return code
        is_over = code in (0, *_STOPPED) or (found != status and found.get("state") == "diverged")
        is_last = is_over or number > retries.most
        wait_s = None if is_last else retries.wait_s * 2 ** (number - 1) * (1 + JITTER * _share(directory, begun))
        _record(directory, config, begun, {"exit_code": code, "reason": reason, "retried_after_s": wait_s})
        if wait_s is None:
            if not is_over and found.get("state") == "running":  # a killed process could not say it
                with directory.lock():
                    directory.set_status("failed", f"{reason}, in {number} attempts")
            return code
        print(f"{directory.path}: {reason}; attempt {number + 1} in {wait_s:.1f} s", file=sys.stderr, flush=True)
        time.sleep(wait_s)
    raise AssertionError("unreachable")


def _reason(code: int, status: dict[str, Any]) -> str:
    """How an attempt ended, in its own words where it left some."""
    if code == 0:
        return "done"
    if status.get("state") in ("failed", "diverged", "stopped"):
        return str(status["reason"])
    known = {int(one): one.name for one in signal.Signals}
    return f"killed by {known[code - 128]}" if code - 128 in known else f"exit code {code}"


def _share(directory: RunDir, attempt: int) -> float:
    """In [0, 1), keyed by the run and the attempt."""
    return float(generator(0, f"retry of {directory.path.name}", attempt).random())


def _attempts(directory: RunDir) -> list[dict[str, Any]]:
    path = directory.provenance_path
    return list(json.loads(path.read_text())["attempts"]) if path.exists() else []


def _record(directory: RunDir, config: RunConfig, begun: int, facts: dict[str, Any]) -> None:
    """Add to the attempt's record how it ended; make one, where it ended before it could."""
    if len(_attempts(directory)) == begun:
        experiment.record_attempt(directory, config, experiment.data_facts(config, *treated.plain_stream(config)))
    known = json.loads(directory.provenance_path.read_text())
    known["attempts"][-1] |= facts
    write_json(directory.provenance_path, known)
