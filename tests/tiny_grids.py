"""Small grids for tests."""

from paribus import config as configs
from paribus.grid import programs
from paribus.grid.config import GridRun

BASE = {
    "study": "grids",
    "name": "tiny",
    "data": {"kind": "polynomial", "input_dim": 8, "num_samples": 100, "num_heldout": 64},
    "model": {"kind": "mlp", "width": 16, "depth": 2},
    "train": {"eta": 0.1, "batch_size": 16, "budget": {"epochs": 5}},
    "launch": {"devices": 1, "progress": False},
}


def one(tmp_path, **changes) -> GridRun:
    """The base below `tmp_path`, with changed sections."""
    return configs.from_mapping({**BASE, "paths": {"runs": str(tmp_path)}, **changes}, GridRun, "grids.py")


def points(run: GridRun, etas, gammas=(1.0,)) -> list[GridRun]:
    return [programs.at(run, name=f"g{gamma:g}-e{eta:g}", gamma=gamma, eta=eta) for gamma in gammas for eta in etas]
