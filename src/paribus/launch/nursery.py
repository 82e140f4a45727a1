"""A process that starts commands, and has imported already what `python -m MODULE` commands are going to import.

PyTorch and transformers take about 4 CPU-seconds to import, as much as a small run takes to train. The nursery imports
them once and forks: each command still has a process of its own, untouched by those before it. Where a fork would
not be safe (threads, a GPU driver, another system than Linux) it executes the command from scratch.

As a program: reads requests as JSON lines on stdin, writes how each command ended on stdout; at the end of its stdin it
asks all to stop, with SIGTERM, and waits."""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

LOST = -signal.SIGKILL  # the return code of a command whose nursery died
_PR_SET_PDEATHSIG = 1  # prctl(2)
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under WSL


class Nursery:
    """Starts commands, and tells how they ended. Its own process starts with the first command."""

    def __init__(self, preload: Sequence[str], env: Mapping[str, str]) -> None:
        """preload: modules to import before the first fork; env: what they find in their environment."""
        self._preload, self._env = tuple(preload), env
        self._process: subprocess.Popen[bytes] | None = None
        self.living: set[str] = set()  # the keys of commands that have not ended, as far as was seen
        self._unread = b""

    def start(self, key: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        """Run a command in its own session, with stdout and stderr appended to `log`."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "paribus.launch.nursery", *self._preload],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**self._env, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # its imports start no threads
                start_new_session=True,  # Ctrl-C reaches the launcher alone
            )
        self.living.add(key)
        self._send({"key": key, "command": list(command), "log": str(log.resolve()), "env": dict(env)})

    def send_signal(self, number: int) -> None:
        """Send a signal to every living command."""
        self._send({"signal": number})

    def ended(self, timeout_s: float) -> dict[str, int]:
        """Commands that ended since the last call, waiting for the first of them; return codes as in `subprocess`."""
        codes: dict[str, int] = {}
        if self._process is None or self._process.stdout is None:
            return codes
        stream = self._process.stdout
        while select.select([stream], [], [], 0 if codes else timeout_s)[0]:
            content = os.read(stream.fileno(), 1 << 16)
            if not content:
                codes |= dict.fromkeys(self.living - codes.keys(), LOST)
                self.close()
                break
            *lines, self._unread = (self._unread + content).split(b"\n")
            for line in lines:
                reply = json.loads(line)
                codes[reply["key"]] = reply["code"]
        self.living -= codes.keys()
        return codes

    def close(self) -> None:
        """Ask what still lives to stop, and wait for it."""
        if self._process is not None:
            self._process.communicate()
        self._process, self._unread = None, b""

    def _send(self, request: Mapping[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):  # it died: `ended` tells
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()


def has_gpu_driver() -> bool:
    return any(Path(driver).exists() for driver in _GPU_DRIVERS)


# --- the process -------------------------------------------------------------------------------------------------------


def _main() -> None:
    replies = os.dup(1)
    os.dup2(2, 1)
    can_fork = _import_all(sys.argv[1:])
    request = _serve(replies, can_fork)
    if request is not None:  # this is the fork that becomes the command
        _become(request, can_fork)


def _import_all(modules: Sequence[str]) -> bool:
    """Import the modules; whether a fork of what came of it is safe."""
    if not modules or sys.platform != "linux" or has_gpu_driver():
        return False
    for name in modules:
        with contextlib.suppress(Exception):  # the command that needs it will say why it fails
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else the first collection in every fork copies all pages
    return len(list(Path("/proc/self/task").iterdir())) == 1


def _serve(replies: int, can_fork: bool) -> dict[str, Any] | None:
    """Start, signal and reap until stdin ends; in each fork, return the request that it is to become."""
    libc = ctypes.CDLL(None)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keys: dict[int, str] = {}
    unread, is_open = b"", True
    while is_open or keys:
        ready, _, _ = select.select([woken, 0] if is_open else [woken], [], [])
        if woken in ready:
            os.read(woken, 1 << 12)
        lines: list[bytes] = []
        if 0 in ready:
            content = os.read(0, 1 << 16)
            is_open = bool(content)
            *lines, unread = (unread + content).split(b"\n") if is_open else [b'{"signal": 15}', b""]
        for request in map(json.loads, lines):
            if "signal" in request:
                _signal(list(keys), request["signal"])
            elif pid := os.fork():
                keys[pid] = request["key"]
            else:
                _detach(libc, [replies, woken, wake])
                return dict(request)
        for pid, code in _reap():
            with contextlib.suppress(BrokenPipeError):
                os.write(replies, json.dumps({"key": keys.pop(pid), "code": code}).encode() + b"\n")
    return None


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _reap() -> list[tuple[int, int]]:
    reaped = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            reaped.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    return reaped


def _detach(libc: ctypes.CDLL, files: Sequence[int]) -> None:
    """In a new fork: leave the nursery's session, signals and pipes, and stop when it dies."""
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for file in files:
        os.close(file)


def _become(request: Mapping[str, Any], can_fork: bool) -> None:
    """Turn this fork into the command; returns to the interpreter's normal end when `python -m` was run."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, log, log)):
        os.dup2(file, number)
    for file in (nothing, log):
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    command = request["command"]
    if not can_fork or command[:2] != [sys.executable, "-m"]:
        _execute(command)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch = sys.modules.get("torch")
    if torch is not None and "OMP_NUM_THREADS" in os.environ:  # read by the library when it was loaded: too early
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


def _execute(command: list[str]) -> NoReturn:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, programs expect it
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


if __name__ == "__main__":
    _main()
