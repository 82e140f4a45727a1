"""The TensorBoard mirror: one event file an attempt, written by TensorBoard's own writer."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoard:
    """Writes scalars below `folder`. After a resume, points of an earlier attempt that are logged again count once."""

    def __init__(self, folder: Path) -> None:
        self._resumed = folder.is_dir() and any(folder.glob("events.out.tfevents.*"))
        self._writer = EventFileWriter(str(folder))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._resumed:  # readers then drop what earlier files hold from this step on
            self._add(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
            self._resumed = False
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(Event(step=step, summary=Summary(value=values)))
        self._writer.flush()  # a killed run loses nothing: what is before the checkpoint is never logged again

    def close(self) -> None:
        self._writer.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.add_event(event)
