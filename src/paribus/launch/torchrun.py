"""One run on several ranks of one machine, through PyTorch's torchrun."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from paribus.errors import ConfigError
from paribus.launch.jobs import num_cores, thread_limits, train_command
from paribus.train.config import LaunchConfig

SHUTDOWN_TIMEOUT_S = 600  # from the signal to SIGKILL: the ranks write a checkpoint meanwhile


def is_inside() -> bool:
    """Whether this process is a rank already, started by us or by anyone else's torchrun."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def command(run: Path, launch: LaunchConfig) -> list[str]:
    """The command that trains the run on `launch.num_processes` ranks.

    Raises ConfigError when the engine knows only one."""
    if launch.engine == "single":
        raise ConfigError(
            f"launch.num_processes: found {launch.num_processes} with launch.engine: single, which is one process; "
            "use ddp or fsdp2, or 1"
        )
    ranks = ["--standalone", "--nproc-per-node", str(launch.num_processes)]
    return [sys.executable, "-m", "torch.distributed.run", *ranks, *train_command(run)[1:]]


def run(run: Path, launch: LaunchConfig, environment: Mapping[str, str] | None = None) -> int:
    """Do in this process what `command` does, and return the exit code of the first rank that failed.

    torchrun itself exits with 1 whatever a rank's code was, and under a traceback when a signal ended it. SIGINT and
    SIGTERM go on to the ranks, which checkpoint; the code is then 128 + signal. environment: variables of the ranks."""
    argv = command(run, launch)[3:]
    given = launch.threads or int(os.environ.get("OMP_NUM_THREADS", num_cores())) // launch.num_processes
    os.environ.update({**(environment or {}), **thread_limits(max(1, given))})
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_TIMEOUT_S))

    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(torchrun.parse_args(argv))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
