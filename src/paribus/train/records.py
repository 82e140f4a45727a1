"""What a run writes while it trains: metrics.jsonl, stream.u64 and timings.jsonl.

The first two are a function of the config alone, so they carry no clock and are cut back to the checkpoint on resume."""

import errno
import json
import math
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from paribus.data.batches import Batch
from paribus.errors import CheckpointError
from paribus.rundir import RunDir, disk_error


class Records:
    """The open files of a run; only rank 0 has them, on other ranks every method does nothing."""

    def __init__(self, run: RunDir, offsets: Mapping[str, int], *, is_writer: bool) -> None:
        """offsets: bytes of each file at the checkpoint, whatever was written after it is cut off."""
        self._files: dict[str, FileIO] = {}  # unbuffered: a killed process leaves whole lines
        if is_writer:
            run.path.mkdir(parents=True, exist_ok=True)
            for path in (run.metrics_path, run.stream_path):
                self._files[path.name] = _cut(path, offsets.get(path.name, 0))
            self._files["timings"] = run.timings_path.open("ab", buffering=0)

    def batch(self, batch: Batch) -> None:
        """Append the batch's hash: 8 bytes a step."""
        if self._files:
            self._append("stream.u64", batch.digest())

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line; a value that is not finite becomes null."""
        if self._files:
            self._append("metrics.jsonl", _line(step, values))

    def timing(self, step: int, values: Mapping[str, float]) -> None:
        if self._files:
            self._append("timings", _line(step, {name: float(f"{value:.6g}") for name, value in values.items()}))

    def offsets(self) -> dict[str, int]:
        """Make all that was written durable; the bytes of each file, for the checkpoint."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items() if name != "timings"}

    def _append(self, name: str, content: bytes) -> None:
        file = self._files[name]
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise disk_error(error, Path(file.name)) from error

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()


def _line(step: int, values: Mapping[str, float]) -> bytes:
    clean: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return json.dumps({"step": step, **clean}).encode() + b"\n"


def _cut(path: Path, offset: int) -> FileIO:
    """Open for appending after `offset` bytes. Raises CheckpointError when the file lacks some of them."""
    file = path.open("ab", buffering=0)
    size = file.seek(0, os.SEEK_END)
    if size < offset:
        file.close()
        raise CheckpointError(
            f"{path}: {size} bytes found, but the checkpoint was made after {offset}; it was cut or replaced"
        )
    file.truncate(offset)
    file.seek(0, os.SEEK_END)
    return file
