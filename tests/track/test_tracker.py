import subprocess
import sys
from pathlib import Path

import pytest

from paribus.errors import MissingExtra
from paribus.rundir import RunDir
from paribus.track.config import TrackConfig, WandbConfig
from paribus.track.tracker import Mirrors, build_trackers, require


@pytest.mark.parametrize(
    ("library", "config"),
    [
        ("wandb", TrackConfig(wandb=WandbConfig(project="p"))),
        ("tensorboard", TrackConfig(tensorboard=True)),
    ],
)
def test_a_missing_library_is_refused_before_anything_is_written(library, config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # what Python itself does with a library that cannot be imported
    with pytest.raises(MissingExtra, match=rf"track\.{library}: .* pip install 'paribus\[{library}\]'"):
        build_trackers(config, RunDir(tmp_path), "k4", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_an_earlier_run_left_is_not_taken_for_the_library(tmp_path, monkeypatch):
    (tmp_path / "library_that_is_absent").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra):
        require("library_that_is_absent", extra="x", key="track.x")


def test_without_trackers_no_library_is_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from paribus.rundir import RunDir\n"
        "from paribus.track.config import TrackConfig; from paribus.track.tracker import build_trackers\n"
        f"mirrors = build_trackers(TrackConfig(), RunDir({str(tmp_path)!r}), 'k4', {{}})\n"
        "mirrors.log(1, {}); mirrors.close()\n"
        "print({'wandb', 'tensorboard', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(tmp_path))
    assert done.stdout == "set()\n"


class Recorder:
    """A tracker that breaks at one step, and remembers what it was given."""

    def __init__(self, breaks_at: int | None) -> None:
        self.steps: list[int] = []
        self.closed, self._breaks_at = 0, breaks_at

    def log(self, step, metrics):
        if step == self._breaks_at:
            raise OSError("the other end is gone")
        self.steps.append(step)

    def close(self):
        self.closed += 1


def test_a_broken_tracker_is_never_called_again_and_the_others_miss_nothing(caplog):
    broken, whole = Recorder(breaks_at=3), Recorder(breaks_at=None)
    mirrors = Mirrors({"broken": broken, "whole": whole})
    for step in range(1, 6):
        mirrors.log(step, {"loss": 1.0})
    mirrors.close()
    assert (broken.steps, broken.closed) == ([1, 2], 0)
    assert (whole.steps, whole.closed) == ([1, 2, 3, 4, 5], 1)
    assert [record.getMessage() for record in caplog.records] == [
        "broken is switched off, the run goes on and metrics.jsonl has everything: OSError: the other end is gone"
    ]
