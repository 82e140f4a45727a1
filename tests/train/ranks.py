"""Run a function on several ranks: processes forked from a server that has imported PyTorch once."""

import faulthandler
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import counting_runs

HANGS_AFTER_S = 200  # ten times what it takes on a busy machine


def on_ranks(world: int, function: Callable[..., Any], *args: Any, may_fail: bool = False) -> list[int | None]:
    """Call function(*args) in `world` processes as torchrun would; return their exit codes, all 0 unless may_fail."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([counting_runs.__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=_rank, args=(rank, world, port, function, args)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(HANGS_AFTER_S + 40)
        if process.is_alive():
            process.kill()
            process.join()
    codes = [process.exitcode for process in ranks]
    assert may_fail or codes == [0] * world, f"exit codes {codes}"
    return codes


def _rank(rank: int, world: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)  # a rank that waits for ever says where
    function(*args)
    sys.stderr.flush()
    os._exit(0)  # what is left of the process is not what is tested
