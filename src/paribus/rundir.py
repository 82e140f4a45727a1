"""The run directory: its identity, its lock, its state, and files that are either whole or absent."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

from paribus.errors import CheckpointError, RunError

State = Literal["running", "done", "stopped", "failed", "diverged"]
WHERE_AND_HOW = ("track", "launch", "paths")


def identity(resolved: Mapping[str, Any], digits: int = 8) -> str:
    """Name a resolved config by hex digits of the SHA-256 of its canonical JSON, without where-and-how."""
    what = {key: value for key, value in resolved.items() if key not in WHERE_AND_HOW}
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:digits]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent, whatever happens: temporary name, fsync, rename.

    Raises RunError when the device is full; the old file, if any, is untouched."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> RunError:
    """Say in one line why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RunError(f"{path}: no space left on the device; free some and run the same command again")
    return RunError(f"{path}: cannot be written: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically; NaN and infinities are refused, since no other program reads them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_fingerprint(folder: Path, *, weights: bool) -> str:
    """The SHA-256 of a pretrained model: its config.json and, with `weights`, its safetensors; not of the folder's name."""
    files = [folder / "config.json", *(sorted(folder.glob("*.safetensors")) if weights else [])]
    return named_fingerprint(path for path in files if path.is_file())


def listed_fingerprint(sha256: Mapping[str, str], *, weights: bool) -> str:
    """`folder_fingerprint` of a folder whose files and their digests are known, whether all of them are there or not."""
    names = [name for name in sorted(sha256) if "/" not in name and name.endswith(".safetensors")] if weights else []
    return _fingerprint([(name, sha256[name]) for name in ["config.json", *names]])


def named_fingerprint(paths: Iterable[Path]) -> str:
    """The SHA-256 of the names and hashes of files that are there, in this order; not of their folders."""
    return _fingerprint([(path.name, known_sha256(path)) for path in paths])


def _fingerprint(hashes: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def known_sha256(path: Path) -> str:
    """The SHA-256 of a file, read once a process unless it changed."""
    state = path.stat()
    return _remembered_sha256(path, state.st_size, state.st_mtime_ns)


def input_fingerprint(path: Path, where: str) -> str:
    """The SHA-256 of a file that a run reads; `where`: the key that names it. Raises RunError when it is missing."""
    try:
        return known_sha256(path)
    except OSError as error:
        raise RunError(f"{where}: {path}: cannot be read: {error.strerror or error}") from error


def files_fingerprint(paths: Sequence[Path], where: str) -> str:
    """The SHA-256 of the hashes of files in their order, one after another; not of their names. Errors as of one file."""
    hashes = [input_fingerprint(path, where) for path in paths]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


@lru_cache(maxsize=2**16)
def _remembered_sha256(path: Path, size: int, mtime_ns: int) -> str:
    """A run is asked for its identity several times: gigabytes are read once a process, unless they changed."""
    return file_sha256(path)


class RunDir:
    """One run's folder. Creating it writes nothing; `lock` it before writing."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.provenance_path = self.path / "provenance.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.timings_path = self.path / "timings.jsonl"
        self.stream_path = self.path / "stream.u64"
        self.log_path = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoints"
        self.evals = self.path / "evals"
        self.insertions = self.path / "insertions"
        self.control = self.path / "control"
        self.audit = self.path / "audit"

    @property
    def is_done(self) -> bool:
        return (self.path / "DONE").exists()

    def status(self) -> dict[str, Any]:
        """What STATUS.json says; {} before the run has begun."""
        try:
            return dict(json.loads((self.path / "STATUS.json").read_text()))
        except FileNotFoundError:
            return {}

    def set_status(self, state: State, reason: str = "", **facts: Any) -> None:
        """Record the state with its reason; `done` also leaves the DONE marker, any other state takes it away."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        done = self.path / "DONE"
        if state != "done":
            done.unlink(missing_ok=True)
        write_json(self.path / "STATUS.json", {"state": state, "reason": reason, "updated": now, **facts})
        if state == "done":
            write_text(done, f"{now}\n")

    def make(self) -> None:
        """Make the folder, where it was not yet. Raises RunError where that is not allowed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.path) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the operating system lets go of it even after SIGKILL.

        Raises RunError, with the holder, when another process has it."""
        self.make()
        try:
            opened = (self.path / ".lock").open("a+")
        except OSError as error:
            raise disk_error(error, self.path) from error
        with opened as file:
            if not _locks(file):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunError(f"{self.path}: in use by {holder}; wait for it, or stop it first")
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a process holds the run at this moment."""
        try:
            with (self.path / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True


def _locks(file: IO[str], patience_s: float = 1.0) -> bool:
    """Take the lock of an open file. A moment of patience, since `is_locked` holds it for an instant when it looks."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


# --- checkpoints/step-000500/: their names -----------------------------------------------------------------------------

_STEP = re.compile(r"step-(\d{6,})")


def newest(checkpoints: Path) -> Path | None:
    """The checkpoint of the highest step, not yet verified; None where there is none."""
    return max(complete(checkpoints), key=step_of, default=None)


def complete(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; unfinished ones have other names."""
    if not checkpoints.is_dir():
        return []
    return sorted((p for p in checkpoints.iterdir() if _STEP.fullmatch(p.name) and p.is_dir()), key=step_of)


def folder_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name carries."""
    match = _STEP.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(f"{folder}: not the name of a checkpoint; step-000500 is one")
    return int(match[1])
