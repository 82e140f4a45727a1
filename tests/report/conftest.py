"""One browser and a few fabricated runs, shared by the tests of a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, launched
from fabricate import Fabricated, fabricate


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as tab:
        yield tab


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three done, one interrupted, one diverged; k11 stands for a name that must not sort before k2."""
    folder = tmp_path_factory.mktemp("runs")
    for like in (
        Fabricated(k=1),
        Fabricated(k=2),
        Fabricated(k=11),
        Fabricated(k=2, seed=1, state="running"),
        Fabricated(k=4, seed=1, state="diverged"),
    ):
        fabricate(folder, like)
    return folder
