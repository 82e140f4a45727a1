"""Clusters that several folders of tests share: each is started once a session, when the first test needs it."""

from collections.abc import Iterator

import pytest

import clusters


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SLURM_CONF of a real Slurm of four CPUs."""
    with clusters.slurm(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A real Ray cluster of four CPUs."""
    with clusters.ray(4) as address:
        yield address
