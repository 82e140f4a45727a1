"""`paribus show`: the resolved settings of a run, or the keys in which two differ."""

from collections.abc import Sequence
from pathlib import Path

from paribus import config as configs
from paribus import experiment
from paribus.config import Section
from paribus.errors import ConfigError
from paribus.grid import programs


def shown(run: Path, words: Sequence[str] = ()) -> list[str]:
    """The lines of a run's config; where one of the words is another run, a line for each key that differs.

    words: at most one path, and settings (`key.path=value`) for both. Raises ConfigError for more paths."""
    overrides = [word for word in words if "=" in word]
    others = [Path(word) for word in words if "=" not in word]
    if len(others) > 1:
        raise ConfigError(f"show: two runs can be compared, found {len(others) + 1}")
    one = _config(run, overrides)
    if not others:
        return configs.dump(one).removesuffix("\n").split("\n")
    two = _config(others[0], overrides)
    differing = configs.difference(one.model_dump(mode="json"), two.model_dump(mode="json"))
    return [f"{key}: {a} | {b}" for key, a, b in differing] or ["no key differs"]


def _config(path: Path, overrides: Sequence[str]) -> Section:
    """Of a run of either kind, or of a program of the grid engine."""
    return programs.look(path, overrides) or experiment.read(path, overrides)
