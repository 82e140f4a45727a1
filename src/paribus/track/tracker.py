"""Trackers mirror metrics.jsonl to other tools; none of them can stop, delay or change a run."""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from paribus.errors import MissingExtra
from paribus.rundir import RunDir
from paribus.track.config import TrackConfig

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Mirror the metrics of one step; steps never decrease. On resume they begin after the checkpoint's."""

    def close(self) -> None:
        """Hand over what is still held back. The last call."""


class Mirrors:
    """Many trackers as one that never raises: a tracker that fails is named in one warning and switched off."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(step, metrics)
            except Exception as error:  # whatever a service or its library can raise
                self._switch_off(name, error)

    def close(self) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.close()
            except Exception as error:
                self._switch_off(name, error)
        self._trackers.clear()

    def _switch_off(self, name: str, error: Exception) -> None:
        del self._trackers[name]
        _warn(name, error)


def build_trackers(config: TrackConfig, run: RunDir, name: str, resolved: Mapping[str, Any]) -> Mirrors:
    """Open the mirrors that a `track:` section asks for; only rank 0 calls this, once an attempt.

    name: of the run, where the section gives none. resolved: the whole config, for the tools that show it.
    Raises MissingExtra, before anything is opened, when a library is not installed."""
    if config.wandb is not None:
        require("wandb", extra="wandb", key="track.wandb")
    if config.tensorboard:
        require("tensorboard", extra="tensorboard", key="track.tensorboard")
    trackers: dict[str, Tracker] = {}
    try:
        if config.tensorboard:
            from paribus.track.tensorboard import TensorBoard

            trackers["TensorBoard"] = TensorBoard(run.path / "tensorboard")
    except Exception as error:
        _warn("TensorBoard", error)
    try:
        if config.wandb is not None:
            from paribus.track.wandb import Wandb

            trackers["W&B"] = Wandb(config.wandb, run, name, resolved)
    except Exception as error:
        _warn("W&B", error)
    return Mirrors(trackers)


def require(library: str, extra: str, key: str) -> None:
    """Raise MissingExtra unless `library` can be imported; a folder of that name is no library."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise MissingExtra(
            f"{key}: the library {library} is not installed; pip install 'paribus[{extra}]', or take the key out"
        )


def _warn(name: str, error: Exception) -> None:
    kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
    what = " ".join(f"{kind}{error}".split())
    logger.warning("%s is switched off, the run goes on and metrics.jsonl has everything: %s", name, what[:300])
