"""The checkpoint of a program that is under way: state/state.json names one safetensors file, and is renamed last."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from paribus import rundir
from paribus.errors import CheckpointError

Arrays = dict[str, NDArray[Any]]


class Position(NamedTuple):
    """Where a program is."""

    number: int = 0  # the round of a search; a plain grid has one
    step: int = 0  # updates made in this round
    rows: tuple[Mapping[str, Any], ...] = ()  # of results/runs.parquet: what the finished rounds found


def save_state(folder: Path, position: Position, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a checkpoint; the one before it is there until this one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    # ascontiguousarray makes a number an array of one
    content = save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()})
    path = folder / f"arrays-{position.number:04d}-{position.step:09d}.safetensors"
    rundir.write_bytes(path, content)
    digest = hashlib.sha256(content).hexdigest()
    rundir.write_json(folder / "state.json", {"file": path.name, "sha256": digest, **position._asdict()})
    for other in folder.glob("arrays-*.safetensors"):
        if other != path:
            other.unlink()


def load_state(folder: Path) -> tuple[Position, Arrays] | None:
    """The newest checkpoint; None where there is none. Raises CheckpointError when it is damaged."""
    record = folder / "state.json"
    try:
        facts = dict(json.loads(record.read_bytes()))
        name, digest = facts.pop("file"), facts.pop("sha256")
        position = Position(**facts | {"rows": tuple(facts["rows"])})
        content = (folder / name).read_bytes()
    except FileNotFoundError as error:
        if record.exists():
            raise CheckpointError(
                f"{error.filename}: missing, state.json names it; remove {folder} to begin again"
            ) from error
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{record}: damaged ({error}); remove {folder} to begin again") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(
            f"{folder}: the checkpoint is damaged (its hash differs); remove the folder to begin again"
        )
    return position, load(content)
