"""One run on several ranks of one machine, through PyTorch's torchrun."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paribus import experiment
from paribus.errors import ConfigError, ParibusError
from paribus.launch.jobs import num_cores, thread_limits, train_command
from paribus.launch.retry import Retries, with_retries
from paribus.run_config import RunConfig
from paribus.rundir import RunDir
from paribus.train.config import LaunchConfig

SHUTDOWN_TIMEOUT_S = 600  # from the signal to SIGKILL: the ranks write a checkpoint meanwhile
FIRST_PORT = 29501  # of OLMo-core's ranks: that above torchrun's own default
OLMO_CORE_RETRIES = 10


def is_inside() -> bool:
    """Whether this process is a rank already, started by us or by anyone else's torchrun."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def train(directory: RunDir, config: RunConfig) -> int:
    """Train a run on ranks of their own, and again from its newest checkpoint as often as they crash and may be retried.

    Returns the exit code of the last attempt. Raises what `command` and `experiment.hold` raise."""
    launch = config.launch
    command(directory.path, launch)  # what it refuses is refused before anything is written
    is_new = not directory.config_path.exists()
    experiment.hold(directory, config)
    given = launch.retries if launch.retries is not None else OLMO_CORE_RETRIES * (launch.engine == "olmo_core")
    own = config.insertions.environment if config.insertions else {}
    with experiment.variables(own):  # as the ranks' first instruction sees them, and no other run after this one
        code = with_retries(directory, config, lambda: run(directory.path, launch), Retries(given, launch.retry_wait_s))
    if is_new and code == ParibusError.exit_code:
        experiment.forget(directory)
    return code


def command(run: Path, launch: LaunchConfig) -> list[str]:
    """The command that trains the run on `launch.num_processes` ranks.

    Raises ConfigError when the engine knows only one, MissingExtra when it is not installed."""
    where = ["--standalone"]
    if launch.engine == "single":
        raise ConfigError(
            f"launch.num_processes: found {launch.num_processes} with launch.engine: single, which is one process; "
            "use ddp or fsdp2, or 1"
        )
    if launch.engine == "olmo_core":
        from paribus.train.olmo.extra import require_olmo_core

        require_olmo_core()
        where = ["--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    ranks = ["--nproc-per-node", str(launch.num_processes)]
    return [sys.executable, "-m", "torch.distributed.run", *where, *ranks, *train_command(run)[1:]]


def free_port(first: int = FIRST_PORT) -> int:
    """The lowest port from `first` on that nobody listens on. Another process may take it before it is used."""
    for port in range(first, 2**16):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ConfigError(f"launch.engine: olmo_core: no port from {first} on is free; end what holds them")


def run(run: Path, launch: LaunchConfig) -> int:
    """Do in this process what `command` does, and return the exit code of the first rank that failed.

    torchrun itself exits with 1 whatever a rank's code was, and under a traceback when a signal ended it. SIGINT and
    SIGTERM go on to the ranks, which checkpoint; the code is then 128 + signal."""
    given = launch.threads or int(os.environ.get("OMP_NUM_THREADS", num_cores())) // launch.num_processes
    os.environ.update(thread_limits(max(1, given)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_TIMEOUT_S))

    from torch.distributed import DistNetworkError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    while True:
        try:
            with _own_handlers_afterwards():
                torchrun.run(torchrun.parse_args(command(run, launch)[3:]))  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            _, first = error.get_first_failure()
            return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
        except SignalException as error:
            return 128 + int(error.sigval)
        except DistNetworkError as error:
            if "EADDRINUSE" in str(error):  # another run took the port since we looked: the next one, then
                continue
            raise
        return 0


@contextmanager
def _own_handlers_afterwards() -> Iterator[None]:
    """torchrun leaves signal handlers behind that raise in whatever comes next."""
    held = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
