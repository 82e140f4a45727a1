"""The Weights & Biases mirror, in a process of its own.

The library starts services, prompts, and waits for the network. Out there it may do so for as long as it likes: the run
is neither delayed nor changed, it only puts lines into a queue. All files lie in the run directory."""

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from paribus.rundir import RunDir, newest, step_of, write_text
from paribus.track.config import WandbConfig

MAX_QUEUED = 100_000  # lines of about 200 bytes: what a run may log while the service does not answer
INIT_TIMEOUT_S = 60.0  # for the service's first answer, while the run goes on
START_GRACE_S = 5.0  # at the end of a run, for a service that has not answered yet: starting takes 1-3 s
FINISH_TIMEOUT_S = 30.0  # at the end of a run, for the upload of what is left
READY = "ready"


class Wandb:
    """Mirrors to one W&B run whose id is that of the run, unless another is named: a resumed run goes on in its place."""

    def __init__(self, config: WandbConfig, run: RunDir, name: str, resolved: Mapping[str, Any]) -> None:
        self._folder = run.path.resolve() / "wandb"
        self._process = _start(self._folder)
        settings = {
            **config.model_dump(exclude={"step_in_name"}),
            "name": (config.name or name) + (f"-step={_first_step(run)}" if config.step_in_name else ""),
            "id": config.id or run.path.name.rpartition("-")[2],  # RUNS/STUDY/NAME-ID8
            "resume": "allow" if config.id is None else "must",
            "dir": str(run.path.resolve()),
            "config": dict(resolved),
        }
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_QUEUED)
        self._lines.put(json.dumps(settings))
        self._feeder = threading.Thread(target=self._feed, name="wandb", daemon=True)
        self._feeder.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises RuntimeError when the process has ended or has taken nothing for too long."""
        if not self._feeder.is_alive():  # its pipe broke
            raise RuntimeError(self._last_words(patience_s=5.0))
        try:
            self._lines.put_nowait(json.dumps({"step": step, "metrics": dict(metrics)}))
        except queue.Full:
            self._last_words()
            raise RuntimeError(f"no answer while {MAX_QUEUED} lines were waiting") from None

    def close(self) -> None:
        """Wait until all is handed over. Raises RuntimeError when that fails or takes too long."""
        self._lines.put(None)
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], START_GRACE_S)[0]:
            self._last_words()
            raise RuntimeError("the service did not answer before the end of the run")
        said = self._last_words(patience_s=FINISH_TIMEOUT_S)
        if self._process.returncode == -signal.SIGKILL:
            raise RuntimeError(f"the upload was not finished in time; `wandb sync` uploads what lies in {self._folder}")
        if self._process.returncode != 0:
            raise RuntimeError(said)

    def _feed(self) -> None:
        """Runs in a thread: a pipe that nobody empties blocks here, and only here."""
        assert self._process.stdin is not None
        try:
            while (line := self._lines.get()) is not None:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            self._process.stdin.write(b"null\n")  # a bare end of the stream would mean that the run was killed
            self._process.stdin.close()
        except OSError:
            return  # the process has ended; its last words tell why

    def _last_words(self, patience_s: float = 0.0) -> str:
        """What the process said last, after waiting for its end, or else killing it."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        with self._process.stdout:
            said = self._process.stdout.read().decode(errors="replace").split("\n")[-1]
        return said if said not in ("", READY) else f"ended early, see {self._folder}/mirror.log"


def _first_step(run: RunDir) -> int:
    """The step of the checkpoint that this attempt begins from."""
    checkpoint = newest(run.checkpoints)
    return 0 if checkpoint is None else step_of(checkpoint)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start this file as a program: settings and metrics on its stdin, its words on stdout, its chatter in a file."""
    folder.mkdir(exist_ok=True)
    own = {
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_ERROR_REPORTING": "false",  # else the process reports to the makers, and waits for that at its end
    }
    with (folder / "mirror.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "paribus.track.wandb", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**own, **os.environ},
            start_new_session=True,  # Ctrl-C stops the run, which then says good-bye here
        )


def _mirror(lines: TextIO, words: TextIO) -> None:
    """Hand every line to W&B until the stream ends; without a last `null` the run was killed, and W&B is told so."""
    import wandb

    settings = json.loads(lines.readline())
    mark = Path(settings["dir"], "wandb", "last-step")
    recorded = int(mark.read_text()) if mark.exists() else -1
    quiet = wandb.Settings(
        silent=True,
        console="off",
        symlink=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        x_graphql_retry_max=3,  # about 15 s
        x_stats_pid=int(sys.argv[1]),
    )
    run = wandb.init(**settings, settings=quiet)
    _say(READY, words)
    # after a resume, what an earlier attempt recorded is not recorded twice: the service knows, or else the mark
    first = recorded + 1 if settings["mode"] == "offline" else run.step
    exit_code = 1
    for line in lines:
        message = json.loads(line) if line.endswith("\n") else {"step": -1}  # cut off by the kill
        if message is None:
            exit_code = 0
        elif message["step"] >= first:
            run.log(message["metrics"], step=message["step"])
            recorded = message["step"]
    run.finish(exit_code=exit_code)
    write_text(mark, f"{recorded}\n")


def _say(text: str, words: TextIO) -> None:
    with contextlib.suppress(OSError):  # nobody hears it: the run was killed, what it logged is still recorded
        words.write(text)
        words.flush()


def _main() -> None:
    words = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints, and what its own children inherit
    try:
        _mirror(sys.stdin, words)
    except BaseException as error:
        _say("\n" + " ".join(f"{type(error).__name__}: {error}".split()), words)
        os._exit(1)  # nothing left to wait for
    os._exit(0)  # finished: the library's own good-byes may take long


if __name__ == "__main__":
    _main()
